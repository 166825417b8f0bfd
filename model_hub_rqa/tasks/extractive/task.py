"""The extractive task: an answer is a span of a context, or of one of several passages."""

import dataclasses
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model_hub_rqa.checkpoints import READER
from model_hub_rqa.config.fields import FieldError, option
from model_hub_rqa.config.kwargs import Kwargs
from model_hub_rqa.data.arrow_cache import FileLoader
from model_hub_rqa.data.loading import load_file, squad_reader
from model_hub_rqa.data.predictions import is_squad_format
from model_hub_rqa.data.slices import parse_slice
from model_hub_rqa.data.tokens import text_backend, text_backend_json
from model_hub_rqa.errors import ConfigError, DataError
from model_hub_rqa.metrics.squad import references_from_rows, squad_v1, squad_v2
from model_hub_rqa.models.limits import Limits
from model_hub_rqa.records import Answer, Question
from model_hub_rqa.registry import TASKS
from model_hub_rqa.tasks.base import Task
from model_hub_rqa.tasks.extractive.decoding import DecodedSpans, answer_logits, choose_passage, decode_many, decode_top
from model_hub_rqa.tasks.extractive.features import (
    ExtractiveCollator,
    FeatureBuilder,
    build_features,
    check_tokenizer,
    keep_negative_windows,
    pair_template,
)
from model_hub_rqa.tasks.extractive.model import (
    check_token_types,
    freeze_span_bias,
    freeze_unused_parameters,
    is_causal,
    longest_window,
    reads_question_first,
    span_logits,
    span_loss,
)
from model_hub_rqa.tasks.extractive.spans import TopSpan, span_candidates, top_spans

logger = logging.getLogger(__name__)

_V1_METRICS = {"exact_match": True, "f1": True}
_V2_METRICS: Mapping[str, bool | None] = {
    **{f"{part}{name}": True for part in ("", "HasAns_", "NoAns_", "best_") for name in ("exact", "f1")},
    **dict.fromkeys(("total", "HasAns_total", "NoAns_total", "best_exact_thresh", "best_f1_thresh")),
}


@dataclass(frozen=True, kw_only=True)
class ExtractiveKwargs(Kwargs):
    """Windows over a context, and answers taken from them."""

    max_seq_length: int = option(384, ge=1, help="tokens of a window, question and special tokens included")
    doc_stride: int = option(128, ge=0, help="tokens that two neighbouring windows share")
    n_best_size: int = option(20, ge=1, help="candidates kept for a question")
    max_answer_length: int = option(30, ge=1, help="the longest answer in tokens")
    max_negative_windows: float | None = option(None, ge=0, help="windows without answers kept, as a share or a count")
    version_2_with_negative: bool = option(False, help="some questions have no answer, as in SQuAD 2.0")
    null_score_diff_threshold: float = option(0.0, help="say 'no answer' where its score leads by more than this")
    question_first: bool | None = option(None, help="question before context; unset: true, but for XLNet")

    def errors(self) -> Iterator[FieldError]:
        if self.doc_stride >= self.max_seq_length:
            text = f"must be < max_seq_length ({self.max_seq_length}), got {self.doc_stride}"
            yield FieldError(("doc_stride", "max_seq_length"), text)
        if (windows := self.max_negative_windows or 0.0) >= 1 and not windows.is_integer():
            yield FieldError(("max_negative_windows",), f"must be a share below 1 or a whole number, got {windows}")


@TASKS.register("extractive")
class Extractive(Task):
    """Finds the answer to a question as a span of its context, or says that there is none (SQuAD v2.0).

    Each window of a batch is reduced to its n best spans at once, or to the best one alone where nobody sees the
    others. Metrics are those of the official SQuAD evaluators: exact_match and f1, or v2.0's exact, f1, HasAns_*,
    NoAns_* and best_*. Files are predictions.json, nbest_predictions.json and, for v2.0, null_odds.json.
    """

    name, description = "extractive", "an extractive reader"
    model_mode, Settings = "question-answering", ExtractiveKwargs
    metric = "f1"
    needs_passages = True
    decode_spans: Callable[..., list[DecodedSpans]] = staticmethod(decode_many)

    @property
    def higher_is_better(self) -> Mapping[str, bool | None]:
        return _V2_METRICS if self.settings.version_2_with_negative else _V1_METRICS

    @classmethod
    def reads(cls, config: Any) -> bool:
        names = getattr(config, "architectures", None) or ()
        return any(name.endswith(("ForQuestionAnswering", "ForQuestionAnsweringSimple")) for name in names)

    # ---- settings against the model ----

    def setup(self, config: Any, tokenizer: Any, limits: Limits) -> None:
        super().setup(config, tokenizer, limits)
        if self.settings.question_first is None:  # a checkpoint's reader.json says it for good
            self.settings = dataclasses.replace(self.settings, question_first=reads_question_first(config))

    def check(self) -> None:
        check_tokenizer(self.tokenizer)
        errors = []
        limit = self.longest_window
        if self.settings.max_seq_length > limit:
            errors.append(
                f"data.max_seq_length: must be at most {limit}, the longest input of this model and tokenizer, "
                f"got {self.settings.max_seq_length}"
            )
        if not self.settings.question_first and is_causal(self.config):
            kind = self.config.model_type
            errors.append(f"data.question_first: must be true for a {kind}, whose tokens see what is before them alone")
        template = pair_template(text_backend(text_backend_json(self.tokenizer)), self.tokenizer.cls_token_id)
        errors += check_token_types(self.tokenizer, template, self.limits)
        if errors:
            raise ConfigError(errors)

    def adapt_to_checkpoint(
        self, config: Any, tokenizer: Any, limits: Limits, folder: Path, given: Collection[str]
    ) -> None:
        settings, trained = self.settings, (folder / READER).is_file()
        if settings.question_first is None and trained:
            # Version 0.1 went by the padding side, and kept no word of it. A checkpoint is read as it was trained.
            settings = dataclasses.replace(settings, question_first=tokenizer.padding_side == "right")
            if not settings.question_first and is_causal(config):
                logger.warning(
                    "%s: was trained by version 0.1 with the context before the question, which this %s never sees "
                    "there: train it again",
                    folder,
                    config.model_type,
                )
        limit = longest_window(limits, tokenizer)
        if settings.max_seq_length > limit and "max_seq_length" not in given and not trained:
            stride = min(settings.doc_stride, limit // 3)
            settings = dataclasses.replace(settings, max_seq_length=limit, doc_stride=stride)
        if settings.max_seq_length > limit:
            raise ConfigError(
                f"max_seq_length: must be at most {limit}, the longest input of {folder}, got {settings.max_seq_length}"
            )
        self.settings = settings

    @property
    def longest_window(self) -> int:
        """Tokens of the longest window that model and tokenizer take."""
        return longest_window(self.limits, self.tokenizer)

    # ---- data ----

    @classmethod
    def reads_file(cls, path: str) -> bool:
        return is_squad_format(parse_slice(path).path)

    def file_loader(self, *, labelled: bool = True) -> FileLoader | None:
        return None if labelled else squad_reader(True, require_answers=False, require_offsets=False)

    def load(self, path: str, *, labelled: bool = True, on_bad_record: str = "error") -> Any:
        return load_file(
            path,
            version_2_with_negative=True,  # a file may be of either version
            require_answers=labelled,
            require_offsets=False,
            on_bad_record=on_bad_record,
        )

    def prepare(self, examples: Mapping[str, Any]) -> Mapping[str, Any]:
        """Counts the validation answers that no span can be, and says so: no training could find them."""
        limit = self.settings.max_answer_length
        self.notes["validation_answers"] = count_long_answers(examples["validation"], self.tokenizer, limit)
        answered, longer = self.notes["validation_answers"].values()
        if longer:
            logger.warning(
                "%.0f %% of the validation answers (%d of %d) are longer than max_answer_length %d and cannot be found",
                100 * longer / answered,
                longer,
                answered,
                limit,
            )
        return examples

    def examples_of(self, questions: Sequence[Question]) -> Any:
        """An example a passage; a dialogue's history is ignored."""
        from datasets import Dataset

        missing = [question.text for question in questions if not question.passages]
        if missing:
            raise DataError(f"passages: needs at least one to answer {text!r}" for text in missing)
        return Dataset.from_list(
            [
                {"id": f"{number} {rank}", "question": question.text, "context": passage.text}
                for number, question in enumerate(questions)
                for rank, passage in enumerate(question.passages)
            ]
        )

    # ---- features and batches ----

    def feature_builder(self, *, labels: bool) -> FeatureBuilder:
        """Makes the windows of examples; with ``labels``, the first and last token of the answer in each."""
        return FeatureBuilder(
            self.tokenizer,
            max_seq_length=self.settings.max_seq_length,
            doc_stride=self.settings.doc_stride,
            labels=labels,
            question_first=bool(self.settings.question_first),
        )

    def features(self, examples: Any, *, training: bool) -> Any:
        """The windows of the examples, several for a long context; see `build_features` for the columns."""
        builder = self.feature_builder(labels=training)
        made = build_features(examples, builder, overwrite_cache=self.overwrite_cache)
        most = self.settings.max_negative_windows
        if training and most is not None:
            made = keep_negative_windows(made, most, cls_index=builder.template.cls_index, seed=self.seed)
        return made

    def collate(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = self.collator(features)
        return result

    @property
    def collator(self) -> Any:
        """Pads windows to tensors: input_ids and so on [B, T], offsets [B, T, 2], the others [B]."""
        return ExtractiveCollator(self.tokenizer, self.padding_multiple, max_length=self.longest_window)

    # ---- the model ----

    def prepare_model(self, model: Any) -> None:
        freeze_span_bias(model)
        freeze_unused_parameters(model, token_types="token_type_ids" in self.tokenizer.model_input_names)

    def loss(self, model: Any, batch: Mapping[str, Any]) -> torch.Tensor:
        return span_loss(*span_logits(model, batch), batch["start_positions"], batch["end_positions"])

    @property
    def wants_n_best(self) -> bool:
        """Whether anybody sees n-best lists, or needs "no answer" beside the answer."""
        return bool(self.wants_files or self.settings.version_2_with_negative)

    def predict(self, model: Any, batch: Mapping[str, Any]) -> dict[Any, Any]:
        """{(example, window): a SpanCandidates, or the window's best span alone}."""
        keys = zip(batch["example_index"].tolist(), batch["feature_index"].tolist(), strict=True)
        return dict(zip(keys, self.find_spans(model, batch), strict=True))

    def find_spans(self, model: Any, batch: Mapping[str, Any]) -> list[Any]:
        """What is kept of each window of a batch."""
        start_logits, end_logits = span_logits(model, batch)
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

    # ---- results ----

    def decode(self, predictions: Mapping[Any, Any], examples: Any) -> list[Any]:
        """A DecodedSpans for each example; the answer's text alone without n-best lists."""
        contexts = examples["context"][:]
        if not self.wants_n_best:
            spans = TopSpan(*map(np.array, zip(*predictions.values(), strict=True)))
            owners = [example for example, _ in predictions]
            return decode_top(contexts, owners, spans, n_best_size=self.settings.n_best_size)
        windows: list[list[Any]] = [[] for _ in contexts]
        for key in sorted(predictions):
            windows[key[0]].append(predictions[key])
        return self.decode_spans(
            contexts,
            windows,
            n_best_size=self.settings.n_best_size,
            version_2_with_negative=self.settings.version_2_with_negative,
            null_score_diff_threshold=self.settings.null_score_diff_threshold,
        )

    def metrics(self, results: Sequence[Any], examples: Any) -> dict[str, float]:
        references = references_from_rows(examples.select_columns(["id", "answers"]))
        rules = self.answer_rules(references.values())
        texts = [found if isinstance(found, str) else found.prediction for found in results]
        predictions = dict(zip(examples["id"][:], texts, strict=True))
        if not self.settings.version_2_with_negative:
            return squad_v1(predictions, references, rules=rules)
        probabilities = {key: found.no_answer_probability for key, found in zip(predictions, results, strict=True)}
        return squad_v2(predictions, references, probabilities, rules=rules)

    def files(self, results: Sequence[Any], examples: Any) -> dict[str, Any]:
        by_id = dict(zip(examples["id"][:], results, strict=True))
        odds = {key: found.score_diff for key, found in by_id.items() if found.score_diff is not None}
        return {
            "predictions.json": {key: found.prediction for key, found in by_id.items()},
            "nbest_predictions.json": {key: found.n_best for key, found in by_id.items()},
            "null_odds.json": odds,
        }

    def answers(
        self, results: Sequence[Any], examples: Any, questions: Sequence[Question] | None = None
    ) -> list[Answer]:
        """The answer to each example; with ``questions``, the best of each one's passages: see `choose_passage`."""
        if results and isinstance(results[0], str):  # without n-best lists
            return [Answer(text) for text in results]
        counts = [1] * len(results) if questions is None else [len(question.passages) for question in questions]
        ends = np.cumsum(counts)
        return [
            choose_passage(results[end - count : end], self.passage_rank)
            for end, count in zip(ends, counts, strict=True)
        ]

    def references(self, examples: Any) -> list[list[str]]:
        """The gold answers; "" of a question that cannot be answered."""
        return [references or [""] for references in super().references(examples)]

    @staticmethod
    def passage_rank(found: DecodedSpans) -> float:
        """What passages that answer are compared by."""
        return answer_logits(found)


def count_long_answers(examples: Any, tokenizer: Any, max_answer_length: int) -> dict[str, int]:
    """How many questions cannot be answered in full, because all their answers are longer than a span may be.

    Args:
        examples: columns context and answers; questions without an answer are not counted.
        tokenizer: a fast one.
        max_answer_length: in its tokens.

    Returns:
        answered (questions with an answer) and longer_than_max_answer_length (those of them with longer ones alone).
    """
    questions: list[int] = []
    texts: list[str] = []
    columns = zip(examples["context"][:], examples["answers"][:], strict=True)
    for number, (context, answers) in enumerate(columns):
        for text, given in zip(answers["text"], answers["answer_start"], strict=True):
            bare = text.strip()
            start = given + len(text) - len(text.lstrip())
            # The space before a word is a part of its token to some tokenizers.
            space = " " if start > 0 and context[start - 1] == " " and context.startswith(bare, start) else ""
            questions.append(number)
            texts.append(space + bare)
    distinct = list(dict.fromkeys(texts))
    encodings = text_backend(text_backend_json(tokenizer)).encode_batch_fast(distinct, add_special_tokens=False)
    lengths = {text: len(encoding) for text, encoding in zip(distinct, encodings, strict=True)}
    shortest: dict[int, int] = {}
    for number, text in zip(questions, texts, strict=True):
        shortest[number] = min(lengths[text], shortest.get(number, lengths[text]))
    longer = sum(length > max_answer_length for length in shortest.values())
    return {"answered": len(shortest), "longer_than_max_answer_length": longer}
