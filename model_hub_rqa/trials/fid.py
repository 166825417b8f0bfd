"""FiDTrial: a Fusion-in-Decoder reader, which writes answers from many passages."""

import functools
from collections.abc import Mapping
from typing import Any

import torch

from model_hub_rqa.data.tokens import end_token_id
from model_hub_rqa.errors import ConfigError
from model_hub_rqa.models.signature import unwrapped
from model_hub_rqa.tasks.fid.encoder_decoder import (
    build_encoder_decoder,
    encoder_decoder_config,
    name_tokens,
)
from model_hub_rqa.tasks.fid.features import FusionCollator, FusionFeatureBuilder, build_fusion_features, draw_labels
from model_hub_rqa.tasks.fid.model import (
    PASSAGE_INPUTS,
    answer_losses,
    decoder_start_token_id,
    enable_fusion,
    encode_passages,
    fusion_error,
    fusion_generate,
    shift_right,
)
from model_hub_rqa.tasks.fid.settings import FusionKwargs
from model_hub_rqa.trials.passages import PassageTrial
from model_hub_rqa.trials.reducers import Values


class FiDTrial(PassageTrial):
    """Learns to write answers from passages that are fused in the decoder (Izacard and Grave 2020, arXiv:2007.01282).

    The loss is the mean over a batch's answers of the mean over an answer's tokens, so it does not depend on how a
    batch is divided among ranks. A validation
    generates: exact_match, f1 and rougeL in percent, against all true answers, and loss, the mean over all tokens;
    where it reads retrieved passages, it is end to end and reports `document_metrics` as well.
    """

    default_model_mode = "seq2seq-lm"
    default_bf16 = True
    smooths_labels = True
    task_kwargs = FusionKwargs
    default_metric = "exact_match"
    default_smaller_is_better = False
    settings: FusionKwargs

    @property
    def higher_is_better(self) -> Mapping[str, bool | None]:
        return {**super().higher_is_better, "loss": False}

    # ---- configuration and data ----

    def parse(self, hparams: Mapping[str, Any], data: Mapping[str, Any]) -> None:
        encoder = hparams.get("encoder_decoder_from", data.get("encoder_decoder_from"))
        faults = []
        if encoder is not None:
            hparams = {"pretrained_model_name_or_path": encoder, **hparams}
            named = hparams["pretrained_model_name_or_path"]
            if named != encoder:
                faults.append(
                    "hyperparameters.pretrained_model_name_or_path: must be left out beside encoder_decoder_from "
                    f"({encoder}), whose weights are taken, got {named}"
                )
        try:
            super().parse(hparams, data)
        except ConfigError as error:
            faults += error.problems
        if faults:
            raise ConfigError(faults)

    def build_config_and_tokenizer(self) -> tuple[Any, Any]:
        config, tokenizer = super().build_config_and_tokenizer()
        if self.settings.encoder_decoder_from is not None:
            config = encoder_decoder_config(config, tokenizer)
        return config, tokenizer

    def check(self) -> None:
        if error := fusion_error(self.config):
            raise ConfigError(f"hyperparameters.pretrained_model_name_or_path: {error}")
        faults = [
            f"data.{name}: must be at most {limit:,}, the longest that this model takes, got {value:,}"
            for name, value, limit in (
                ("max_encoder_seq_length", self.settings.max_encoder_seq_length, self.limits.encoder),
                ("max_decoder_seq_length", self.settings.max_decoder_seq_length, self.limits.decoder),
                ("max_new_tokens", self.settings.max_new_tokens or 0, self.limits.decoder),
            )
            if value > limit
        ]
        end, expected = end_token_id(self.tokenizer), self.config.eos_token_id
        if end is None:
            faults.append("hyperparameters.tokenizer_name: the tokenizer must have an eos_token or a sep_token")
        elif expected is not None and end not in (expected if isinstance(expected, list) else [expected]):
            faults.append(
                f"hyperparameters.config_overrides: eos_token_id must be {end}, the tokenizer's, got {expected}"
            )
        if faults:
            raise ConfigError(faults)

    def build_features(self, split: str) -> Any:
        builder = self.feature_builder(training=split == "train")
        return build_fusion_features(self.passages[split], builder, overwrite_cache=self.data.overwrite_cache)

    def feature_builder(self, *, training: bool) -> FusionFeatureBuilder:
        start = decoder_start_token_id(self.config)
        return FusionFeatureBuilder(self.tokenizer, self.settings, decoder_start_token_id=start, training=training)

    def build_collator(self) -> FusionCollator:
        return FusionCollator(
            self.feature_builder(training=True), self.pad_to_multiple_of, max_length=self.limits.decoder
        )

    # ---- model ----

    def build_model(self) -> torch.nn.Module:
        if self.settings.encoder_decoder_from is None:
            model = super().build_model()
        else:
            pretrained = self.trainer.use_pretrained_weights
            model = build_encoder_decoder(self.config, self.model_kwargs, pretrained)
        name_tokens(model, self.tokenizer)
        enable_fusion(model, self.settings.encoder_chunk_size)
        return model

    # ---- training and evaluation ----

    @functools.cached_property
    def epoch_length(self) -> int:
        """Micro-batches of an epoch on one rank."""
        return self.batches_per_epoch()

    def train_batch(self, batch: Any, epoch_idx: int, batch_idx: int) -> dict[str, Any]:
        labels = draw_labels(batch, seed=self.seed, epoch=batch_idx // self.epoch_length)
        return super().train_batch({**batch, "labels": labels}, epoch_idx, batch_idx)

    def compute_loss(self, batch: dict[str, Any]) -> torch.Tensor:
        passages = {name: batch[name] for name in PASSAGE_INPUTS}
        logits = self.model(**passages, **self.decoder_inputs(batch["labels"])).logits
        smoothing = self.trainer.label_smoothing_factor
        losses, tokens = answer_losses(logits, batch["labels"], label_smoothing=smoothing)
        return (losses / tokens).mean()

    def decoder_inputs(self, labels: torch.Tensor) -> dict[str, Any]:
        """What the decoder reads to learn ``labels``; the loss is computed from the logits, as reductions differ."""
        start, padding = decoder_start_token_id(self.config), self.config.pad_token_id
        return {"decoder_input_ids": shift_right(labels, start, padding), "use_cache": False}

    def evaluate_batch(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        model = unwrapped(self.model)  # ranks may have different numbers of batches
        labels = batch["answer_ids"]
        with self.autocast():
            fused = encode_passages(model, batch, encoder_chunk_size=self.settings.encoder_chunk_size)
            logits = model(**fused.inputs, **self.decoder_inputs(labels)).logits
            indices = batch["example_index"].tolist()
            written = fusion_generate(model, batch, fused=fused, seed=(self.seed, *indices), **self.settings.generation)
        losses, tokens = answer_losses(logits, labels)
        values = zip(losses.tolist(), tokens.tolist(), self.answer_texts(written, indices), strict=True)
        self.reducer.update(dict(zip(indices, values, strict=True)))
        return {}

    def compute_metrics(self, values: Values) -> dict[str, float]:
        losses, tokens, predictions = zip(*values.values(), strict=True)
        return {**self.answer_metrics(list(values), predictions), "loss": sum(losses) / sum(tokens)}
