"""Reranker: one model reads a question together with a passage and scores the passage (Nogueira and Cho 2019,
arXiv:1901.04085)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from model_hub_rqa.config import option
from model_hub_rqa.config.fields import FieldError
from model_hub_rqa.data.arrow_cache import map_examples
from model_hub_rqa.errors import ConfigError
from model_hub_rqa.metrics.ranking import ranking_metrics
from model_hub_rqa.models import build
from model_hub_rqa.records import Answer
from model_hub_rqa.registry import TASKS
from model_hub_rqa.tasks.retriever.records import Row, passage_text
from model_hub_rqa.tasks.retriever.relevance import RelevanceKwargs, RelevanceTask

MEASURES = ("nDCG@10", "MRR@10")
LOSSES = ("binary_cross_entropy", "softmax", "lambda", "margin_mse")


@dataclass(frozen=True, kw_only=True)
class RerankerKwargs(RelevanceKwargs):
    """What a reranker learns from, and by which loss."""

    loss: str = option(
        LOSSES[0],
        choices=LOSSES,
        help="each passage by itself; the positive among its list, by softmax or LambdaLoss; or a teacher's margins",
    )
    num_hard_negatives: int = option(4, ge=1, help="of a question's negatives, so many are drawn in each epoch")
    positive_weight: float | None = option(
        None, gt=0, help="of a positive in binary_cross_entropy; unset: num_hard_negatives, as much as all negatives"
    )
    max_seq_length: int = option(512, ge=16, help="tokens of a question with a passage; the longer one is cut")

    def errors(self) -> Iterator[FieldError]:
        yield from super().errors()
        if self.positive_weight is not None and self.loss != LOSSES[0]:
            yield FieldError(("positive_weight", "loss"), f"is ignored with loss {self.loss}")


@TASKS.register("reranker")
class RerankerTask(RelevanceTask):
    """Trains a classifier with one output on questions with positive and negative passages.

    A record is one of `read_relevance`. A validation scores all passages of each record and ranks them: nDCG@10 and
    MRR@10; of equal scores negatives come first. rankings.jsonl has the rankings. A checkpoint is a folder that
    sentence-transformers' CrossEncoder loads.
    """

    name, description = "reranker", "a model that scores passages"
    model_mode, Settings = "sequence-classification", RerankerKwargs
    metric, measures = MEASURES[0], MEASURES
    passage_columns = ("input_ids", "attention_mask", "token_type_ids", "scores")
    scored = ("margin_mse",)
    instead = "rqa retrieve --rerank puts passages in its order"

    def adapt_config(self, config: Any, tokenizer: Any) -> Any:
        config.num_labels = 1
        return config

    def setup(self, config: Any, tokenizer: Any, limits: Any) -> None:
        super().setup(config, tokenizer, limits)
        if tokenizer is not None:  # where sentence-transformers looks for the length
            tokenizer.model_max_length = self.max_length

    @property
    def max_length(self) -> int:
        """Tokens of a question with a passage."""
        length: int = min(self.settings.max_seq_length, self.limits.tokens)
        return length

    def check(self) -> None:
        if self.tokenizer.pad_token_id is None or self.config.pad_token_id is None:
            raise ConfigError("hyperparameters.tokenizer_name: the tokenizer and the model must have a padding token")

    def build_model(self, model_mode: str | None, model_kwargs: Mapping[str, Any], pretrained: bool) -> Any:
        return build.build_model(self.config, self.model_mode, model_kwargs, pretrained)

    # ---- data ----

    def prepare(self, examples: Mapping[str, Any]) -> Mapping[str, Any]:
        self.check_judged(examples["validation"])
        return examples

    def _pair(self, question: str, passage: Row) -> dict[str, list[int]]:
        texts = question, passage_text(passage)
        encoded = self.tokenizer(*texts, truncation="longest_first", max_length=self.max_length)
        return {name: encoded[name] for name in ("input_ids", "token_type_ids") if name in encoded}

    def encode(self, example: Mapping[str, Any]) -> Mapping[str, Any]:
        """Of a training record: a list of tokens, and one of token types where the model has them, for each passage;
        the ``n_positives`` come first. And their ``scores``."""
        passages, n_positives = self.candidates(example)
        pairs = [self._pair(example["question"], passage) for passage in passages]
        columns = {name: [pair[name] for pair in pairs] for name in pairs[0]} if pairs else {}
        longest = max((len(pair["input_ids"]) for pair in pairs), default=0)
        scores = [float("nan") if one["score"] is None else one["score"] for one in passages]
        return {**columns, "scores": scores, "n_positives": n_positives, "length": longest}

    def features(self, examples: Any, *, training: bool) -> Any:
        """Of a training record one feature; in a validation one for each of its passages."""
        if training:
            return super().features(examples, training=True)
        return map_examples(
            examples,
            self._pairs,
            overwrite_cache=self.overwrite_cache,
            remove_columns=examples.column_names,
            batched=True,
            with_indices=True,
        )

    def _pairs(self, columns: Mapping[str, Any], rows: Sequence[int]) -> dict[str, list[Any]]:
        made: dict[str, list[Any]] = {"example_index": [], "passage": []}
        names = columns.keys()
        for row, values in zip(rows, zip(*columns.values(), strict=True), strict=True):
            record = dict(zip(names, values, strict=True))
            for number, passage in enumerate(passages_of(record)):
                for name, tokens in self._pair(record["question"], passage).items():
                    made.setdefault(name, []).append(tokens)
                made["example_index"].append(row)
                made["passage"].append(number)
        return made

    # ---- batches ----

    def collate(self, features: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """input_ids, attention_mask and, where the model has them, token_type_ids: of training records [B, P, T],
        beside scores [B, P], n_positives and n_passages [B]; in a validation [B, T], beside passage [B]. And
        example_index [B]."""
        numbers = ["example_index", "passage" if "passage" in features[0] else "n_positives"]
        batch = {name: torch.tensor([int(feature[name]) for feature in features]) for name in numbers}
        names = [name for name in ("input_ids", "token_type_ids") if name in features[0]]
        if "passage" in features[0]:
            return {**batch, **self._padded({name: [one[name] for one in features] for name in names})}
        counts = [len(feature["input_ids"]) for feature in features]
        most, nothing = max(counts), list[int]()
        rows = {
            name: [tokens for one in features for tokens in [*one[name], *[nothing] * (most - len(one[name]))]]
            for name in names
        }
        batch |= {name: column.view(len(features), most, -1) for name, column in self._padded(rows).items()}
        scores = [torch.as_tensor(feature["scores"], dtype=torch.float32) for feature in features]
        return {**batch, "scores": pad_sequence(scores, batch_first=True), "n_passages": torch.tensor(counts)}

    def _padded(self, columns: Mapping[str, Sequence[Sequence[int]]]) -> dict[str, torch.Tensor]:
        """Filled up on the right, with the attention mask."""
        fills = {"input_ids": self.tokenizer.pad_token_id or 0}
        given = {**columns, "attention_mask": [[1] * len(row) for row in columns["input_ids"]]}
        return {
            name: pad_sequence(
                [torch.as_tensor(row, dtype=torch.int64) for row in rows],
                batch_first=True,
                padding_value=fills.get(name, 0),
            )
            for name, rows in given.items()
        }

    # ---- the model ----

    def loss(self, model: Any, batch: Mapping[str, Any]) -> torch.Tensor:
        if batch["n_passages"] is not None:  # of an objective that draws no epoch's passages
            batch = self.training_batch(dict(batch), 0)
        flat = {name: column.flatten(0, 1) for name, column in self.inputs(model, batch, labels=False).items()}
        longest = int(flat["attention_mask"].sum(-1).max())
        logits = model(**{name: column[:, :longest] for name, column in flat.items()}).logits
        return reranker_loss(logits.float().view(batch["scores"].shape), batch["scores"], self.settings)

    def predict(self, model: Any, batch: Mapping[str, Any]) -> dict[Any, Any]:
        """The score of each passage, by the numbers of question and passage."""
        scores = model(**self.inputs(model, batch, labels=False)).logits.float().view(-1).tolist()
        keys = zip(batch["example_index"].tolist(), batch["passage"].tolist(), strict=True)
        return dict(zip(keys, scores, strict=True))

    # ---- results ----

    def decode(self, predictions: Mapping[Any, Any], examples: Any) -> list[Any]:
        """Of each question the numbers of its passages with their scores, the best first."""
        found: list[list[tuple[int, float]]] = [[] for _ in range(len(examples))]
        for (row, passage), score in predictions.items():
            found[row].append((passage, score))
        return [
            sorted(scores, key=lambda one: (-one[1], passages[one[0]]["gold"], one[0]))
            for scores, passages in zip(found, map(passages_of, examples), strict=True)
        ]

    def metrics(self, results: Sequence[Any], examples: Any) -> dict[str, float]:
        run, qrels = {}, {}
        for row, (ranked, example) in enumerate(zip(results, examples, strict=True)):
            run[str(row)] = [str(number) for number, _ in ranked]
            passages = enumerate(passages_of(example))
            qrels[str(row)] = {str(number): 1 for number, passage in passages if passage["gold"]}
        return ranking_metrics(run, qrels, MEASURES)

    def to_read(self, results: Sequence[Any], examples: Any) -> list[dict[str, Any]]:
        names, top_k = ("id", "title", "text"), self.settings.reader_top_k
        rows = []
        for ranked, example in zip(results, examples, strict=True):
            passages = passages_of(example)
            read = [
                {**{name: passages[number][name] for name in names}, "score": score} for number, score in ranked[:top_k]
            ]
            kept = {name: example[name] for name in ("id", "question", "answers", "chat_history")}
            rows.append({**kept, "passages": read})
        return rows

    def answers(self, results: Sequence[Any], examples: Any, questions: Any = None) -> list[Answer]:
        rows = zip(results, map(passages_of, examples), strict=True)
        return [Answer(passages[ranked[0][0]]["text"] if ranked else "") for ranked, passages in rows]

    def files(self, results: Sequence[Any], examples: Any) -> dict[str, Any]:
        lines = []
        for ranked, example in zip(results, examples, strict=True):
            passages = passages_of(example)
            shown = [
                {**{name: passages[number][name] for name in ("id", "title", "text", "gold")}, "score": score}
                for number, score in ranked
            ]
            lines.append({"id": example["id"], "question": example["question"], "passages": shown})
        return {"rankings.jsonl": lines}


def passages_of(record: Mapping[str, Any]) -> list[Row]:
    """All passages of a record: the candidates that a validation ranks."""
    return [*record["passages"], *record["negatives"]]


def reranker_loss(logits: torch.Tensor, scores: torch.Tensor, settings: RerankerKwargs) -> torch.Tensor:
    """The loss of the passages of a batch, of which the first of each question is its positive.

    binary_cross_entropy weighs each passage alike but for positive_weight. softmax is the cross entropy of the positive
    among its list. lambda is sentence-transformers' LambdaLoss (Wang et al. 2018, "The LambdaLoss Framework"). With
    margin_mse, the logits' differences learn the scores' (Hofstätter et al. 2020, arXiv:2010.02666).

    Args:
        logits: [B, K].
        scores: of a teacher [B, K].
        settings: the loss and its numbers.
    """
    functional = torch.nn.functional
    if settings.loss == "softmax":
        return functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device))
    if settings.loss == "margin_mse":
        return functional.mse_loss(logits[:, :1] - logits[:, 1:], scores[:, :1] - scores[:, 1:])
    labels = torch.zeros_like(logits)
    labels[:, 0] = 1
    if settings.loss == "lambda":
        return _lambda_loss(logits, labels)
    weight = float(settings.positive_weight or settings.num_hard_negatives)
    return functional.binary_cross_entropy_with_logits(logits, labels, pos_weight=logits.new_tensor(weight))


def _lambda_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    from sentence_transformers.cross_encoder.losses import LambdaLoss

    numbers = [list(range(begin, begin + logits.shape[1])) for begin in range(0, logits.numel(), logits.shape[1])]
    model: Any = _Logits(logits)
    asked: Any = [[""] * len(logits), numbers]
    loss: torch.Tensor = LambdaLoss(model, mini_batch_size=-1)(asked, list(labels))
    return loss


class _Logits:
    """Stands in for a CrossEncoder whose passages are numbers of logits that are there already."""

    num_labels = 1

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits, self.device = logits.flatten(), logits.device

    def preprocess(self, pairs: Sequence[tuple[str, int]], **options: Any) -> dict[str, torch.Tensor]:
        return {"numbers": torch.tensor([number for _, number in pairs])}

    def __call__(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"scores": self.logits[inputs["numbers"]]}
