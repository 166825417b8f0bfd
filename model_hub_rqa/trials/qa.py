"""QATrial: an extractive reader on SQuAD-form data."""

import dataclasses
import json
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from model_hub_rqa.data.tokens import text_backend, text_backend_json
from model_hub_rqa.errors import ConfigError
from model_hub_rqa.metrics.squad import references_from_rows, squad_v1, squad_v2
from model_hub_rqa.tasks.extractive.answer_windows import count_long_answers, keep_negative_windows
from model_hub_rqa.tasks.extractive.decoding import decode_many, decode_predictions, no_answer_probability
from model_hub_rqa.tasks.extractive.features import (
    ExtractiveCollator,
    FeatureBuilder,
    build_features,
    check_tokenizer,
    pair_template,
)
from model_hub_rqa.tasks.extractive.model import (
    check_token_types,
    freeze_span_bias,
    freeze_unread,
    is_causal,
    longest_window,
    position_loss,
    reads_question_first,
    span_logits,
)
from model_hub_rqa.tasks.extractive.settings import ExtractiveKwargs
from model_hub_rqa.tasks.extractive.spans import SpanCandidates, span_candidates
from model_hub_rqa.tasks.extractive.top_spans import TopSpan, decode_top, top_spans
from model_hub_rqa.trials.reducers import Values
from model_hub_rqa.trials.task_trial import TaskTrial

logger = logging.getLogger(__name__)

_V1_METRICS = {"exact_match": True, "f1": True}
_V2_METRICS: Mapping[str, bool | None] = {
    **{f"{part}{name}": True for part in ("", "HasAns_", "NoAns_", "best_") for name in ("exact", "f1")},
    **dict.fromkeys(("total", "HasAns_total", "NoAns_total", "best_exact_thresh", "best_f1_thresh")),
}


class QATrial(TaskTrial):
    """Finds the answer to a question as a span of its context, or says that there is none (SQuAD v2.0).

    Validation reduces each batch to its n best spans at once (to the best one alone where nobody sees the others);
    decoding and the official SQuAD metrics follow on the chief: exact_match and f1, or v2.0's exact, f1, HasAns_*,
    NoAns_* and best_*. Where ``output_dir`` is set, a validation writes predictions.json, nbest_predictions.json and,
    for v2.0, null_odds.json there; of several sets, predictions_NAME.json and so on.
    """

    default_model_mode = "question-answering"
    task_kwargs = ExtractiveKwargs
    default_metric = "f1"
    default_smaller_is_better = False
    settings: ExtractiveKwargs
    decode = staticmethod(decode_many)

    @property
    def higher_is_better(self) -> Mapping[str, bool | None]:
        return _V2_METRICS if self.settings.version_2_with_negative else _V1_METRICS

    def build_config_and_tokenizer(self) -> tuple[Any, Any]:
        config, tokenizer = super().build_config_and_tokenizer()
        if self.settings.question_first is None:  # a checkpoint's reader.json says it for good
            self.settings = dataclasses.replace(self.settings, question_first=reads_question_first(config))
        return config, tokenizer

    def check(self) -> None:
        check_tokenizer(self.tokenizer)
        faults = []
        limit = longest_window(self.limits, self.tokenizer)
        if self.settings.max_seq_length > limit:
            faults.append(
                f"data.max_seq_length: must be at most {limit}, the longest input of this model and tokenizer, "
                f"got {self.settings.max_seq_length}"
            )
        if not self.settings.question_first and is_causal(self.config):
            kind = self.config.model_type
            faults.append(f"data.question_first: must be true for a {kind}, whose tokens see what is before them alone")
        template = pair_template(text_backend(text_backend_json(self.tokenizer)), self.tokenizer.cls_token_id)
        faults += check_token_types(self.tokenizer, template, self.limits)
        if faults:
            raise ConfigError(faults)

    def build_datasets(self) -> Mapping[str, Any]:
        self._count_answers()
        features = {
            split: build_features(
                self.examples[split],
                self.feature_builder(labels=split == "train"),
                overwrite_cache=self.data.overwrite_cache,
            )
            for split in ("train", "validation")
        }
        if self.settings.max_negative_windows is not None:
            cls_index = self.feature_builder(labels=True).template.cls_index
            features["train"] = keep_negative_windows(
                features["train"], self.settings.max_negative_windows, cls_index=cls_index, seed=self.seed
            )
        return features

    def _count_answers(self) -> None:
        """Counts the validation answers that no span can be, and says so: no training could find them."""
        limit = self.settings.max_answer_length
        counts = count_long_answers(self.examples["validation"], self.tokenizer, limit)
        self.validation_answers = counts
        answered, longer = counts.values()
        if longer:
            logger.warning(
                "%.0f %% of the validation answers (%d of %d) are longer than max_answer_length %d and cannot be found",
                100 * longer / answered,
                longer,
                answered,
                limit,
            )

    def feature_builder(self, *, labels: bool) -> FeatureBuilder:
        return FeatureBuilder(
            self.tokenizer,
            max_seq_length=self.settings.max_seq_length,
            doc_stride=self.settings.doc_stride,
            labels=labels,
            question_first=bool(self.settings.question_first),
        )

    def build_model(self) -> torch.nn.Module:
        model = super().build_model()
        freeze_span_bias(model)
        freeze_unread(model, token_types="token_type_ids" in self.tokenizer.model_input_names)
        return model

    def build_collator(self) -> ExtractiveCollator:
        return ExtractiveCollator(
            self.tokenizer, self.pad_to_multiple_of, max_length=longest_window(self.limits, self.tokenizer)
        )

    def compute_loss(self, batch: dict[str, Any]) -> torch.Tensor:
        return position_loss(*span_logits(self.model, batch), batch["start_positions"], batch["end_positions"])

    @property
    def wants_n_best(self) -> bool:
        """Whether anybody sees n-best lists, or needs "no answer" beside the answer."""
        return self.output_dir is not None or self.settings.version_2_with_negative

    def evaluate_batch(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        places = zip(batch["example_index"].tolist(), batch["feature_index"].tolist(), strict=True)
        self.reducer.update(dict(zip(places, self.find_spans(batch), strict=True)))
        return {}

    def find_spans(self, batch: dict[str, Any]) -> list[Any]:
        """What is kept of each window of a validation batch: a SpanCandidates, or its best span alone."""
        with self.autocast():
            start_logits, end_logits = span_logits(self.model, batch)
        find = span_candidates if self.wants_n_best else top_spans
        found = find(
            start_logits.cpu().numpy(),
            end_logits.cpu().numpy(),
            batch["offsets"].cpu().numpy(),
            batch["cls_index"].cpu().numpy(),
            n_best_size=self.settings.n_best_size,
            max_answer_length=self.settings.max_answer_length,
        )
        return found if isinstance(found, list) else list(zip(*(column.tolist() for column in found), strict=True))

    def compute_metrics(self, values: Values) -> dict[str, float]:
        keys: Any = list(values)  # pairs of the example's and the window's number, sorted
        read = sorted({example for example, _ in keys})
        examples = self.evaluated(self.examples["validation"], read)
        ids, contexts = examples["id"][:], examples["context"][:]
        references = references_from_rows(examples.select_columns(["id", "answers"]))
        rules = self.answer_rules(references.values())
        number = {example: place for place, example in enumerate(read)}
        if not self.wants_n_best:
            spans = TopSpan(*map(np.array, zip(*values.values(), strict=True)))
            owners = [number[example] for example, _ in keys]
            answers = decode_top(contexts, owners, spans, n_best_size=self.settings.n_best_size)
            return squad_v1(dict(zip(ids, answers, strict=True)), references, rules=rules)
        by_example: dict[str, dict[int, SpanCandidates]] = {}
        for (example, feature), candidates in zip(keys, values.values(), strict=True):
            by_example.setdefault(ids[number[example]], {})[feature] = candidates
        predictions, n_best, null_odds = decode_predictions(
            dict(zip(ids, contexts, strict=True)),
            by_example,
            n_best_size=self.settings.n_best_size,
            version_2_with_negative=self.settings.version_2_with_negative,
            null_score_diff_threshold=self.settings.null_score_diff_threshold,
            decode=self.decode,
        )
        self._write({"predictions": predictions, "nbest_predictions": n_best, "null_odds": null_odds})
        if not self.settings.version_2_with_negative:
            return squad_v1(predictions, references, rules=rules)
        probabilities = {key: no_answer_probability(odds) for key, odds in null_odds.items()}
        return squad_v2(predictions, references, probabilities, rules=rules)

    def _write(self, files: Mapping[str, Mapping[str, Any]]) -> None:
        for name, content in files.items():
            path = self.prediction_path(f"{name}.json")
            if content and path is not None:
                path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
