"""FiDTrial: a Fusion-in-Decoder reader, which writes answers from many passages."""

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from model_hub_rqa.config.fusion import FusionKwargs
from model_hub_rqa.data.arrow_cache import Reader, cache_folder
from model_hub_rqa.data.fusion import FusionCollator, FusionFeatureBuilder, build_fusion_features, draw_labels
from model_hub_rqa.data.fusion_records import fusion_reader
from model_hub_rqa.data.passages import choose_passages, retrieve_passages
from model_hub_rqa.data.tokens import end_token_id
from model_hub_rqa.errors import ConfigError
from model_hub_rqa.metrics.documents import document_metrics
from model_hub_rqa.metrics.generation import generation_metrics
from model_hub_rqa.models.encoder_decoder import (
    build_encoder_decoder,
    encoder_decoder_config,
    name_tokens,
    position_limits,
)
from model_hub_rqa.models.fusion import (
    PASSAGE_INPUTS,
    answer_losses,
    decoder_start_token_id,
    enable_fusion,
    encode_passages,
    fusion_generate,
    shift_right,
)
from model_hub_rqa.retrieval.base import Retriever
from model_hub_rqa.trials.base import BaseTransformerTrial
from model_hub_rqa.trials.reducers import Values

_SPARE = 10  # passages retrieved beyond those wanted, since the same text may stand in a corpus several times


class FiDTrial(BaseTransformerTrial):
    """Learns to write answers from passages that are fused in the decoder (Izacard and Grave 2020, arXiv:2007.01282).

    The loss is the mean over a batch's answers of the mean over an answer's tokens, so it does not depend on how a
    batch is divided among ranks. A validation generates: exact_match, f1 and rougeL in percent, against all true
    answers, and loss, the mean over all tokens; where it reads retrieved passages, it is end to end and reports
    `document_metrics` as well. Where ``output_dir`` is set, a validation writes predictions.jsonl there (of several
    sets, predictions_NAME.jsonl): question, prediction, references and the passages read.

    Attributes:
        passages: {"train", "validation"} examples with the passages that are read.
    """

    default_model_mode = "seq2seq-lm"
    default_bf16 = True
    task_kwargs = FusionKwargs
    task: FusionKwargs

    # ---- configuration and data ----

    def parse(self, hparams: Mapping[str, Any], data: Mapping[str, Any]) -> None:
        encoder = hparams.get("encoder_decoder_from")
        if encoder is not None:
            hparams = {"pretrained_model_name_or_path": encoder, **hparams}
        super().parse(hparams, data)

    def load_examples(self) -> Mapping[str, Any]:
        entries = {f"data.{side}[{i}]": one for side, sets in self.named_sets.items() for i, one in enumerate(sets)}
        named = {place: one.dataset_name for place, one in {**entries, "data": self.data}.items()}
        faults = [
            f"{place}.dataset_name: questions with passages come from files (train_file, validation_file), got {name!r}"
            for place, name in named.items()
            if name is not None
        ]
        if faults:
            raise ConfigError(faults)
        return super().load_examples()

    def build_reader(self) -> Reader:
        # Retrieval among the records' own passages needs them; without, gold passages are welcome and not needed.
        retrieved = self.task.embedding_model and (self.task.index or self.task.corpus_file)
        return fusion_reader(require_passages=not retrieved)

    def build_config_and_tokenizer(self) -> tuple[Any, Any]:
        config, tokenizer = super().build_config_and_tokenizer()
        if self.task.encoder_decoder_from is not None:
            config = encoder_decoder_config(config, tokenizer)
        return config, tokenizer

    def check(self) -> None:
        if not self.config.is_encoder_decoder:
            raise ConfigError(
                "hyperparameters.pretrained_model_name_or_path: must name an encoder-decoder, "
                f"got a {self.config.model_type} (encoder_decoder_from makes one of an encoder)"
            )
        encoder_limit, decoder_limit = position_limits(self.config)
        faults = [
            f"data.{name}: must be at most {limit:,}, the longest that this model takes, got {value:,}"
            for name, value, limit in (
                ("max_encoder_seq_length", self.task.max_encoder_seq_length, encoder_limit),
                ("max_decoder_seq_length", self.task.max_decoder_seq_length, decoder_limit),
                ("max_new_tokens", self.task.max_new_tokens or 0, decoder_limit),
            )
            if value > limit
        ]
        end, expected = end_token_id(self.tokenizer), self.config.eos_token_id
        if end is None:
            faults.append("hyperparameters.tokenizer_name: the tokenizer must have an eos_token or a sep_token")
        elif expected is not None and end != expected:
            faults.append(
                f"hyperparameters.config_overrides: eos_token_id must be {end}, the tokenizer's, got {expected}"
            )
        if faults:
            raise ConfigError(faults)

    def build_retriever(self) -> tuple[Retriever, str]:
        """What finds passages where the data section asks for retrieval, and a text that says what it depends on."""
        from model_hub_rqa.retrieval.frozen import fingerprint, frozen_index

        records = (record for examples in self.examples.values() for record in examples)
        index = frozen_index(self.task, records, cache_folder(self.data.cache_dir) / "indexes")
        return index, fingerprint(index)

    def build_datasets(self) -> Mapping[str, Any]:
        found = self.build_retriever() if self.task.retrieves else None
        self.passages = {"train": self.training_passages(found), "validation": self.validation_passages(found)}
        return {
            split: build_fusion_features(examples, self.feature_builder(training=split == "train"))
            for split, examples in self.passages.items()
        }

    def training_passages(self, found: tuple[Retriever, str] | None) -> Any:
        """The training examples with the passages that are read: the record's own, or, where embedding_model is
        given, its gold ones among those retrieved."""
        examples, task = self.examples["train"], self.task
        if found is None or not task.embedding_model:
            return choose_passages(
                examples, n_context=task.n_context, num_hard_negatives=task.num_hard_negatives, seed=self.seed
            )
        return self._retrieved(examples, found, task.embedding_max_num_to_retrieve, keep_gold=True)

    def validation_passages(self, found: tuple[Retriever, str] | None) -> Any:
        """The validation examples with the passages that are read: retrieved ones alone where there is a retriever."""
        examples, task = self.examples["validation"], self.task
        if found is None:
            return choose_passages(examples, n_context=task.n_context, seed=self.seed)
        wanted = task.embedding_max_num_to_retrieve
        if not task.embedding_model and task.n_context is not None:
            wanted = task.n_context  # trained on so many of the records' own
        return self._retrieved(examples, found, wanted, keep_gold=False)

    def _retrieved(self, examples: Any, found: tuple[Retriever, str], wanted: int, *, keep_gold: bool) -> Any:
        retriever, fingerprint = found
        gold = max((sum(passage["gold"] for passage in row) for row in examples["passages"]), default=0)
        return retrieve_passages(
            examples,
            functools.partial(retriever.search, k=wanted + gold + _SPARE),
            max_num_to_retrieve=wanted,
            n_context=self.task.n_context,
            keep_gold=keep_gold,
            seed=self.seed,
            fingerprint=fingerprint,
        )

    def feature_builder(self, *, training: bool) -> FusionFeatureBuilder:
        start = decoder_start_token_id(self.config)
        return FusionFeatureBuilder(self.tokenizer, self.task, decoder_start_token_id=start, training=training)

    def build_collator(self) -> FusionCollator:
        multiple = 8 if self.context.device.type == "cuda" else 1
        return FusionCollator(self.feature_builder(training=True), pad_to_multiple_of=multiple)

    # ---- model ----

    def build_model(self) -> torch.nn.Module:
        if self.task.encoder_decoder_from is None:
            model = super().build_model()
        else:
            pretrained = self.trainer.use_pretrained_weights
            model = build_encoder_decoder(self.config, self.model_kwargs, pretrained)
        name_tokens(model, self.tokenizer)
        enable_fusion(model, self.task.encoder_chunk_size)
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
        losses, tokens = answer_losses(logits, batch["labels"])
        return (losses / tokens).mean()

    def decoder_inputs(self, labels: torch.Tensor) -> dict[str, Any]:
        """What the decoder reads to learn ``labels``; the loss is computed from the logits, as reductions differ."""
        start, padding = decoder_start_token_id(self.config), self.config.pad_token_id
        return {"decoder_input_ids": shift_right(labels, start, padding), "use_cache": False}

    def evaluate_batch(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        model = getattr(self.model, "module", self.model)  # ranks may have different numbers of batches
        labels = batch["answer_ids"]
        with self.autocast():
            fused = encode_passages(model, batch, encoder_chunk_size=self.task.encoder_chunk_size)
            logits = model(**fused.inputs, **self.decoder_inputs(labels)).logits
            written = fusion_generate(
                model, batch, fused=fused, num_beams=self.task.num_beams, max_new_tokens=self.task.longest_answer
            )
        losses, tokens = answer_losses(logits, labels)
        texts = [text.strip() for text in self.tokenizer.batch_decode(written, skip_special_tokens=True)]
        values = zip(losses.tolist(), tokens.tolist(), texts, strict=True)
        self.reducer.update(dict(zip(batch["example_index"].tolist(), values, strict=True)))
        return {}

    def compute_metrics(self, values: Values) -> dict[str, float]:
        examples = self.evaluated(self.passages["validation"], list(values))
        losses, tokens, predictions = zip(*values.values(), strict=True)
        self._write(examples, predictions)
        metrics = generation_metrics(predictions, examples["answers"][:])
        return {**metrics, "loss": sum(losses) / sum(tokens), **self.retrieval_metrics(list(values))}

    def retrieval_metrics(self, numbers: list[Any]) -> dict[str, float]:
        """How well the frozen retriever found the gold passages of these validation examples; nothing without one."""
        if not self.task.retrieves:
            return {}
        read, given = (source["validation"].select(numbers)["passages"] for source in (self.passages, self.examples))
        retrieved = [[passage["text"] for passage in row] for row in read]
        gold = [[passage["text"] for passage in row if passage["gold"]] for row in given]
        return document_metrics(retrieved, gold)

    def _write(self, examples: Any, predictions: Sequence[str]) -> None:
        path = self.prediction_path("predictions.jsonl")
        if path is None:
            return
        with path.open("w", encoding="utf-8") as file:
            for example, prediction in zip(examples, predictions, strict=True):
                line = {
                    "id": example["id"],
                    "question": example["question"],
                    "prediction": prediction,
                    "references": example["answers"],
                    "passages": [
                        {name: passage[name] for name in ("id", "title", "text", "score")}
                        for passage in example["passages"]
                    ],
                }
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
