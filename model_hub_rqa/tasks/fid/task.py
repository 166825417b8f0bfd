"""Fusion-in-Decoder: an encoder-decoder generates the answer from many passages, fused in its decoder."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from model_hub_rqa.data.tokens import end_token_id
from model_hub_rqa.errors import CheckpointError, ConfigError, DataError
from model_hub_rqa.models.limits import Limits, check_lengths
from model_hub_rqa.records import Question
from model_hub_rqa.registry import TASKS
from model_hub_rqa.tasks.fid.encoder_decoder import build_encoder_decoder, encoder_decoder_config, name_tokens
from model_hub_rqa.tasks.fid.features import FusionCollator, FusionFeatureBuilder, build_fusion_features, draw_labels
from model_hub_rqa.tasks.fid.model import (
    PASSAGE_INPUTS,
    answer_losses,
    decoder_start_token_id,
    enable_fusion,
    encode_passages,
    end_of_answers,
    fusion_error,
    fusion_generate,
    passage_scores,
    shift_right,
)
from model_hub_rqa.tasks.fid.settings import FusionKwargs
from model_hub_rqa.tasks.passages.task import Generated, PassageTask


@TASKS.register("fid")
class FusionInDecoder(PassageTask):
    """Generates answers from passages that are fused in the decoder (Izacard and Grave 2020, arXiv:2007.01282).

    The loss is the mean over a batch's answers of the mean over an answer's tokens, so it does not depend on how a
    batch is divided among ranks. A validation reports exact_match, f1 and rougeL in percent, against all gold answers,
    and loss, the mean over all tokens.
    """

    name, description = "fid", "a Fusion-in-Decoder reader"
    model_mode, Settings = "seq2seq-lm", FusionKwargs
    default_bf16 = True
    metric = "exact_match"

    @property
    def higher_is_better(self) -> Mapping[str, bool | None]:
        return {**super().higher_is_better, "loss": False}

    @classmethod
    def reads(cls, config: Any) -> bool:
        if config.is_encoder_decoder and (refused := fusion_error(config)):
            raise CheckpointError(refused)
        return bool(config.is_encoder_decoder)

    # ---- settings against the model ----

    @classmethod
    def adapt_hyperparameters(cls, hparams: Mapping[str, Any], data: Mapping[str, Any]) -> Mapping[str, Any]:
        encoder = hparams.get("encoder_decoder_from", data.get("encoder_decoder_from"))
        if encoder is None:
            return hparams
        hparams = {"pretrained_model_name_or_path": encoder, **hparams}
        named = hparams["pretrained_model_name_or_path"]
        if named != encoder:
            raise ConfigError(
                "hyperparameters.pretrained_model_name_or_path: must be left out beside encoder_decoder_from "
                f"({encoder}), whose weights are taken, got {named}"
            )
        return hparams

    def adapt_config(self, config: Any, tokenizer: Any) -> Any:
        return config if self.settings.encoder_decoder_from is None else encoder_decoder_config(config, tokenizer)

    def check(self) -> None:
        if error := fusion_error(self.config):
            raise ConfigError(f"hyperparameters.pretrained_model_name_or_path: {error}")
        errors = [
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
            errors.append("hyperparameters.tokenizer_name: the tokenizer must have an eos_token or a sep_token")
        elif expected is not None and end not in (expected if isinstance(expected, list) else [expected]):
            errors.append(
                f"hyperparameters.config_overrides: eos_token_id must be {end}, the tokenizer's, got {expected}"
            )
        if errors:
            raise ConfigError(errors)

    def adapt_to_checkpoint(
        self, config: Any, tokenizer: Any, limits: Limits, folder: Path, given: Collection[str]
    ) -> None:
        decoder = dict.fromkeys(("max_decoder_seq_length", "max_new_tokens"), limits.decoder)
        longest = {"max_encoder_seq_length": limits.encoder, **decoder}
        check_lengths({name: getattr(self.settings, name) for name in longest if name in given}, longest, folder)

    # ---- features and batches ----

    def examples_of(self, questions: Sequence[Question]) -> Any:
        missing = [question.text for question in questions if not question.passages]
        if missing:
            raise DataError(f"passages: needs at least one to answer {text!r}" for text in missing)
        return super().examples_of(questions)

    def feature_builder(self, *, training: bool) -> FusionFeatureBuilder:
        """Makes the prompts of examples, and their answers: in training all of them."""
        start = decoder_start_token_id(self.config)
        return FusionFeatureBuilder(self.tokenizer, self.settings, decoder_start_token_id=start, training=training)

    def features(self, examples: Any, *, training: bool) -> Any:
        builder = self.feature_builder(training=training)
        if training or self.wants_loss:
            return build_fusion_features(examples, builder, overwrite_cache=self.overwrite_cache)
        self.note_questions(examples)
        return _rows(builder(examples[:], list(range(len(examples)))))

    def collate(self, features: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        return self.collator(features)

    @property
    def collator(self) -> FusionCollator:
        builder = self.feature_builder(training=True)
        return FusionCollator(builder, self.padding_multiple, max_length=self.limits.decoder)

    def training_batch(self, batch: dict[str, Any], epoch: int) -> dict[str, Any]:
        return {**batch, "labels": draw_labels(batch, seed=self.seed, epoch=epoch)}

    # ---- the model ----

    def build_model(self, model_mode: str | None, model_kwargs: Mapping[str, Any], pretrained: bool) -> Any:
        if self.settings.encoder_decoder_from is None:
            return super().build_model(model_mode, model_kwargs, pretrained)
        return build_encoder_decoder(self.config, model_kwargs, pretrained)

    def prepare_model(self, model: Any) -> None:
        name_tokens(model, self.tokenizer)
        enable_fusion(model, self.settings.encoder_chunk_size)

    def loss(self, model: Any, batch: Mapping[str, Any]) -> torch.Tensor:
        passages = {name: batch[name] for name in PASSAGE_INPUTS}
        logits = model(**passages, **self.decoder_inputs(batch["labels"])).logits
        losses, tokens = answer_losses(logits, batch["labels"], label_smoothing=self.label_smoothing)
        return (losses / tokens).mean()

    def decoder_inputs(self, labels: torch.Tensor) -> dict[str, Any]:
        """What the decoder reads to learn ``labels``; the loss is computed from the logits, as reductions differ."""
        start, padding = decoder_start_token_id(self.config), self.config.pad_token_id
        return {"decoder_input_ids": shift_right(labels, start, padding), "use_cache": False}

    def predict(self, model: Any, batch: Mapping[str, Any]) -> dict[Any, Any]:
        indices = batch["example_index"].tolist()
        fused = encode_passages(model, batch, encoder_chunk_size=self.settings.encoder_chunk_size)
        columns: list[Sequence[Any]] = [[0.0] * len(indices), [0] * len(indices)]
        if self.wants_loss:
            labels = batch["answer_ids"]
            logits = model(**fused.inputs, **self.decoder_inputs(labels)).logits
            columns = [part.tolist() for part in answer_losses(logits, labels)]
        seed = self.sampling_seed(indices)
        tokens = fusion_generate(model, batch, fused=fused, seed=seed, **self.settings.generation)
        if self.wants_scores:
            columns.append(_confidences(model, tokens, fused))
            scores = passage_scores(model, batch, fused=fused).split(batch["passage_counts"].tolist())
            columns.append([tuple(found.softmax(dim=0).tolist()) for found in scores])
        rows = zip(tokens.tolist(), *columns, strict=True)
        return dict(zip(indices, (Generated(*row) for row in rows), strict=True))

    def metrics(self, results: Sequence[Any], examples: Any) -> dict[str, float]:
        return {**self.answer_metrics(results, examples), "loss": self.mean_loss(results)}


def _confidences(model: Any, tokens: torch.Tensor, fused: Any) -> list[float]:
    """The geometric mean of the probabilities of each answer's tokens, its end included."""
    labels = end_of_answers(tokens[:, 1:], model.generation_config.eos_token_id)
    logits = model(**fused.inputs, decoder_input_ids=tokens[:, :-1], use_cache=False).logits
    losses, counts = answer_losses(logits, labels)
    means: list[float] = (-losses / counts.clamp_min(1)).exp().tolist()
    return means


def _rows(columns: Mapping[str, Any]) -> Any:
    from datasets import Dataset

    return Dataset.from_dict(dict(columns)).with_format("numpy")
