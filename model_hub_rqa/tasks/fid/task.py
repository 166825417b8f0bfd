"""Fusion-in-Decoder: an encoder-decoder generates the answer from many passages, fused in its decoder."""

import functools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from model_hub_rqa.data.predictions import question_of
from model_hub_rqa.data.tokens import end_token_id
from model_hub_rqa.errors import CheckpointError, ConfigError, DataError
from model_hub_rqa.models.build import loading_kwargs
from model_hub_rqa.models.limits import Limits, check_lengths
from model_hub_rqa.records import Question
from model_hub_rqa.registry import TASKS
from model_hub_rqa.tasks.fid.features import FusionCollator, FusionFeatureBuilder, build_fusion_features, draw_labels
from model_hub_rqa.tasks.fid.model import (
    PASSAGE_INPUTS,
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
from model_hub_rqa.tasks.passages.generation import answer_losses
from model_hub_rqa.tasks.passages.task import Generated, PassageTask

_TOKENS = ("decoder_start_token_id", "eos_token_id", "pad_token_id")


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
    needs_passages = True
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

    @functools.cached_property
    def collator(self) -> FusionCollator:
        """Made once: its builder takes the tokenizer apart, which takes as long as reading several batches."""
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

    def scoring_examples(self, rows: Sequence[Mapping[str, Any]]) -> tuple[Any, list[int]]:
        return self.examples_of([question_of(row) for row in rows]), list(range(len(rows)))

    def score_passages(self, model: Any, batch: Mapping[str, Any]) -> dict[Any, list[float]]:
        """The reader's attention, see `model.passage_scores`."""
        scores = passage_scores(model, batch, encoder_chunk_size=self.settings.encoder_chunk_size)
        parts = scores.split(batch["passage_counts"].tolist())
        return dict(zip(batch["example_index"].tolist(), (part.tolist() for part in parts), strict=True))

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


def encoder_decoder_config(encoder: Any, tokenizer: Any) -> Any:
    """The config of an EncoderDecoderModel whose halves both have the shape of ``encoder``.

    The decoder starts from the tokenizer's CLS (or BOS) token and ends with its EOS (or SEP).

    Raises:
        ConfigError: the model has a decoder already, no class of it can decode with cross-attention, or the tokenizer
            lacks one of the tokens.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING, EncoderDecoderConfig

    first, last = tokenizer.cls_token_id, tokenizer.eos_token_id
    tokens = {
        "decoder_start_token_id": tokenizer.bos_token_id if first is None else first,
        "eos_token_id": tokenizer.sep_token_id if last is None else last,
        "pad_token_id": tokenizer.pad_token_id,
    }
    errors = [f"the tokenizer has no {name.removesuffix('_id')}" for name, token in tokens.items() if token is None]
    if encoder.is_encoder_decoder:
        errors.append(f"must be an encoder, got a {encoder.model_type}: give it as pretrained_model_name_or_path")
    elif not (
        hasattr(encoder, "add_cross_attention")
        and type(encoder) in MODEL_FOR_CAUSAL_LM_MAPPING
        and type(encoder) in MODEL_FOR_MASKED_LM_MAPPING  # so its attention looks both ways
    ):
        errors.append(f"must be of a kind that encodes and decodes (bert, roberta ...), got a {encoder.model_type}")
    if errors:
        raise ConfigError(f"hyperparameters.encoder_decoder_from: {error}" for error in errors)
    config = EncoderDecoderConfig.from_encoder_decoder_configs(encoder, encoder)
    for name, token in tokens.items():
        setattr(config, name, token)
    return config


def build_encoder_decoder(
    config: Any, model_kwargs: Mapping[str, Any], use_pretrained_weights: bool
) -> torch.nn.Module:
    """The EncoderDecoderModel of a config that `encoder_decoder_config` made.

    Args:
        config: the config.
        model_kwargs: what ``from_pretrained`` takes to load the encoder, which starts both halves.
        use_pretrained_weights: False starts from random weights.

    Raises:
        ConfigError: the weights cannot be loaded.
    """
    from transformers import EncoderDecoderModel

    if not use_pretrained_weights:
        return EncoderDecoderModel(config)
    settings = loading_kwargs(model_kwargs)
    name = settings.pop("pretrained_model_name_or_path")
    halves = {f"{half}_{key}": value for half in ("encoder", "decoder") for key, value in settings.items()}
    try:
        model = EncoderDecoderModel.from_encoder_decoder_pretrained(name, name, **halves)
    except (OSError, ValueError) as error:
        raise ConfigError(f"hyperparameters.encoder_decoder_from: {name!r} cannot be loaded: {error}") from error
    for token in _TOKENS:
        setattr(model.config, token, getattr(config, token))
    return model


def name_tokens(model: Any, tokenizer: Any) -> None:
    """Names start, end and padding in the model's generation config where missing, so that a loaded copy can write, and
    the start in its config, so that a loaded copy can be trained by transformers alone."""
    config, end = model.config, tokenizer.eos_token_id
    known = {
        "decoder_start_token_id": decoder_start_token_id(config),
        "eos_token_id": tokenizer.sep_token_id if end is None else end,
        "pad_token_id": tokenizer.pad_token_id if config.pad_token_id is None else config.pad_token_id,
    }
    if getattr(config, "decoder_start_token_id", None) is None:
        config.decoder_start_token_id = known["decoder_start_token_id"]
    for name, token in known.items():
        if getattr(model.generation_config, name, None) is None:
            setattr(model.generation_config, name, token)
