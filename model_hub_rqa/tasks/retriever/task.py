"""Retriever: one model puts questions next to the passages that answer them (Karpukhin et al. 2020, arXiv:2004.04906).

The model is sentence-transformers' (Reimers and Gurevych 2019, arXiv:1908.10084), and so are the losses.
"""

import collections
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from model_hub_rqa.config import option
from model_hub_rqa.config.fields import FieldError
from model_hub_rqa.data.corpus import CorpusReader
from model_hub_rqa.errors import ConfigError, ErrorCollector
from model_hub_rqa.metrics.documents import HAS_ANSWER_AT, answer_rank, has_answer_metrics
from model_hub_rqa.metrics.ranking import ranking_metrics
from model_hub_rqa.models.init_source import save_weights
from model_hub_rqa.records import Answer, Passage
from model_hub_rqa.registry import TASKS
from model_hub_rqa.retrieval.base import top_k
from model_hub_rqa.tasks.retriever.encoder import build_encoder, encoding_errors, freeze_unused, own_prompts
from model_hub_rqa.tasks.retriever.losses import DISTILLED, IN_BATCH, retriever_loss
from model_hub_rqa.tasks.retriever.records import negatives_of, passage_key, passage_text, positives_of, text_key
from model_hub_rqa.tasks.retriever.relevance import RelevanceKwargs, RelevanceTask, keys_of

MEASURES = ("nDCG@10", "MRR@10", "Recall@1", "Recall@5", "Recall@20")
DEPTH = 20  # passages that are kept of a ranking
_KEYS = ("question_key", "positive_keys", "passage_keys")


@dataclass(frozen=True, kw_only=True)
class RetrieverKwargs(RelevanceKwargs):
    """What a retriever learns from, and by which loss of sentence-transformers."""

    loss: str = option(
        IN_BATCH[0],
        choices=(*IN_BATCH, "triplet", *DISTILLED),
        help="multiple_negatives: the batch's other passages are negatives; margin_mse, kl: the records' scores",
    )
    num_hard_negatives: int = option(1, ge=0, help="of a question's negatives, so many are drawn in each epoch")
    mini_batch_size: int = option(32, ge=1, help="texts encoded at a time with cached_multiple_negatives")
    scale: float | None = option(None, gt=0, help="multiplies similarities; unset: 20 for the cosine, else 1")
    similarity: str | None = option(None, choices=("cosine", "dot"), help="unset: the model's own")
    triplet_margin: float = option(0.5, gt=0, help="similarity by which a positive is to be ahead of a negative")
    teacher_temperature: float = option(1.0, gt=0, help="what scores are divided by before kl's softmax")
    max_seq_length: int = option(256, ge=8, help="tokens of a question or a passage; the rest is cut")
    query_prompt: str | None = option(None, help="before each question; unset: the model's own")
    passage_prompt: str | None = option(None, help="before each passage; unset: the model's own")
    corpus_file: str | None = option(
        None, help="passages that a validation ranks as well, beside those of its questions"
    )

    def errors(self) -> Iterator[FieldError]:
        yield from super().errors()
        if self.loss not in IN_BATCH and self.num_hard_negatives == 0:
            yield FieldError(("num_hard_negatives", "loss"), f"must be at least 1 with loss {self.loss}, got 0")


@TASKS.register("retriever")
class RetrieverTask(RelevanceTask):
    """Trains an embedding model on questions with positive and negative passages.

    A record is one of `read_relevance`. In training one positive and ``num_hard_negatives`` negatives of a question are
    drawn in each epoch. A validation encodes its questions, their passages and those of ``corpus_file``, each text
    once, and ranks all of these passages for each question: nDCG@10, MRR@10, Recall@1, Recall@5 and Recall@20; where
    questions have answers, also `has_answer_metrics`. rankings.jsonl has the first 20 of each question. A checkpoint is
    a folder that sentence-transformers loads.
    """

    name, description = "retriever", "an embedding model"
    model_mode, Settings = "base", RetrieverKwargs
    metric, measures = MEASURES[0], MEASURES
    passage_columns = ("passage_input_ids", "passage_attention_mask", "scores", "passage_keys")
    scored = DISTILLED
    instead = "rqa index --embedding-model makes an index with it, rqa retrieve asks that"
    has_answers = False  # the validation's questions, from `prepare` on

    @property
    def higher_is_better(self) -> Mapping[str, bool | None]:
        found = dict.fromkeys((f"has_answer@{k}" for k in HAS_ANSWER_AT if k <= DEPTH), True)
        return {**super().higher_is_better, **({**found, "n_with_answers": None} if self.has_answers else {})}

    @classmethod
    def adapt_hyperparameters(cls, hparams: Mapping[str, Any], data: Mapping[str, Any]) -> Mapping[str, Any]:
        loss = hparams.get("loss", data.get("loss"))
        if loss == IN_BATCH[1] and (hparams.get("bf16") or hparams.get("fp16")):
            raise ConfigError(f"hyperparameters.bf16, fp16: must be false with loss {loss}, which encodes twice")
        return super().adapt_hyperparameters(hparams, data)

    # ---- data ----

    def prepare(self, examples: Mapping[str, Any]) -> Mapping[str, Any]:
        """The training records, and for a validation a row a text: the questions, then the passages."""
        from datasets import Dataset

        questions = examples["validation"]
        self.check_judged(questions)
        rows: list[dict[str, Any]] = []
        passages: dict[int, dict[str, Any]] = {}
        for record in questions:
            asked = {name: record[name] for name in ("id", "answers", "chat_history")}
            asked |= {"title": "", "text": record["question"], "is_question": True}
            rows.append({**asked, "positives": keys_of(positives_of(record))})
            for one in (*positives_of(record), *negatives_of(record)):
                passages.setdefault(passage_key(one), {name: one[name] for name in ("id", "title", "text")})
        for document in self._corpus():
            one = {"id": document.id, "title": document.title, "text": document.text}
            passages.setdefault(passage_key(one), one)
        nothing: dict[str, Any] = {"is_question": False, "answers": [], "chat_history": []}
        # passages of like length make a batch, so that little is padded
        by_length = sorted(passages.items(), key=lambda item: -len(item[1]["title"]) - len(item[1]["text"]))
        rows += [{**one, **nothing, "positives": [key]} for key, one in by_length]
        self.notes["passages ranked in a validation"] = len(passages)
        self.has_answers = any(questions["answers"][:])
        return {"train": examples["train"], "validation": Dataset.from_list(rows)}

    def _corpus(self) -> Iterable[Passage]:
        path = self.settings.corpus_file
        return () if path is None else CorpusReader(path, on_bad_record=self.on_bad_record)

    def check_examples(self, examples: Mapping[str, Any]) -> None:
        errors = ErrorCollector()
        errors.attempt(super().check_examples, examples)
        errors.attempt(collections.deque, self._corpus(), 0)  # reads all of it, keeps nothing
        errors.raise_any()

    @property
    def prompts(self) -> tuple[str, str]:
        """Before questions, and before passages: the settings', or else the model's own."""
        own = own_prompts(self.config.name_or_path)
        given = (self.settings.query_prompt, self.settings.passage_prompt)
        question, passage = (own[index] if text is None else text for index, text in enumerate(given))
        return question, passage

    def setup(self, config: Any, tokenizer: Any, limits: Any) -> None:
        super().setup(config, tokenizer, limits)
        self._prompts = self.prompts

    def _tokens(self, text: str, *, is_question: bool) -> list[int]:
        length = min(self.settings.max_seq_length, self.limits.tokens)
        prompted = self._prompts[0 if is_question else 1] + text
        tokens: list[int] = self.tokenizer(prompted, truncation=True, max_length=length)["input_ids"]
        return tokens

    def encode(self, example: Mapping[str, Any]) -> Mapping[str, Any]:
        """Of a text, its input_ids. Of a training record: ``question``, tokens; ``passages``, a list of tokens each,
        the ``n_positives`` first; their ``scores``; ``passage_keys`` and ``positive_keys``; ``question_key``."""
        if "text" in example:
            return {"input_ids": self._tokens(_whole_text(example), is_question=example["is_question"])}
        passages, n_positives = self.candidates(example)
        question = self._tokens(example["question"], is_question=True)
        tokens = [self._tokens(passage_text(one), is_question=False) for one in passages]
        return {
            "question": question,
            "passages": tokens,
            "n_positives": n_positives,
            "scores": [float("nan") if one["score"] is None else one["score"] for one in passages],
            "question_key": text_key(example["question"]),
            "positive_keys": keys_of(positives_of(example)),
            "passage_keys": keys_of(passages),
            "length": len(question) + max(map(len, tokens), default=0) * (1 + self.settings.num_hard_negatives),
        }

    # ---- batches ----

    def collate(self, features: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Of texts: input_ids and attention_mask [B, T]. Of training records: question_input_ids and
        question_attention_mask [B, T], passage_input_ids and passage_attention_mask [B, P, T'], n_passages and
        n_positives [B], scores and passage_keys [B, P], positive_keys [B, P'], question_key [B]. And example_index."""
        index = torch.tensor([int(feature["example_index"]) for feature in features])
        if "input_ids" in features[0]:
            return {**self._padded([feature["input_ids"] for feature in features]), "example_index": index}
        counts = [len(feature["passages"]) for feature in features]
        most, nothing = max(counts), list[int]()
        filled = ([*one["passages"], *[nothing] * (most - len(one["passages"]))] for one in features)
        rows = [tokens for one in filled for tokens in one]
        questions, passages = self._padded([feature["question"] for feature in features]), self._padded(rows)
        batch = {f"question_{name}": column for name, column in questions.items()}
        batch |= {f"passage_{name}": column.view(len(features), most, -1) for name, column in passages.items()}
        batch |= {name: torch.tensor([int(one[name]) for one in features]) for name in ("n_positives", "question_key")}
        for name, kind in (("scores", torch.float32), ("passage_keys", torch.int64), ("positive_keys", torch.int64)):
            batch[name] = pad_sequence([torch.as_tensor(one[name], dtype=kind) for one in features], batch_first=True)
        return {**batch, "n_passages": torch.tensor(counts), "example_index": index}

    def _padded(self, rows: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        """input_ids and attention_mask [rows, T], filled up on the right."""
        ids = [torch.as_tensor(row, dtype=torch.int64) for row in rows]
        mask = [torch.ones(len(row), dtype=torch.int64) for row in rows]
        fill = self.tokenizer.pad_token_id or 0
        padded = {"input_ids": pad_sequence(ids, batch_first=True, padding_value=fill)}
        return {**padded, "attention_mask": pad_sequence(mask, batch_first=True)}

    # ---- the model ----

    def build_model(self, model_mode: str | None, model_kwargs: Mapping[str, Any], pretrained: bool) -> Any:
        return build_encoder(self.config, self.tokenizer, model_kwargs, pretrained)

    def prepare_model(self, model: Any) -> None:
        if self.settings.similarity is not None:
            model.similarity_fn_name = self.settings.similarity
        self._similarity = model.similarity_fn_name
        if self._similarity not in ("cosine", "dot"):
            raise ConfigError(f"data.similarity: must be cosine or dot, got the model's own {self._similarity}")
        if errors := encoding_errors(model, self.tokenizer, self._prompts):
            raise ConfigError(errors)
        model.max_seq_length = min(self.settings.max_seq_length, self.limits.tokens)
        model.prompts = {"query": self._prompts[0], "document": self._prompts[1]}
        freeze_unused(model)

    def save_model(self, model: Any, folder: Path) -> None:
        save_weights(model, folder, create_model_card=False)  # which would ask the hub

    def loss(self, model: Any, batch: Mapping[str, Any]) -> torch.Tensor:
        if batch["n_passages"] is not None:  # of an objective that draws no epoch's passages
            batch = self.training_batch(dict(batch), 0)
        columns = [_trimmed(batch["question_input_ids"], batch["question_attention_mask"])]
        ids, mask = batch["passage_input_ids"], batch["passage_attention_mask"]
        columns += [_trimmed(ids[:, number], mask[:, number]) for number in range(ids.shape[1])]
        return retriever_loss(model, columns, self.settings, {name: batch[name] for name in _KEYS}, batch["scores"])

    def predict(self, model: Any, batch: Mapping[str, Any]) -> dict[Any, Any]:
        """The vector of each text, float32; for the cosine of length 1."""
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        vectors = model(inputs)["sentence_embedding"].float()
        if self._similarity == "cosine":
            vectors = torch.nn.functional.normalize(vectors)
        return dict(zip(batch["example_index"].tolist(), vectors.cpu().numpy(), strict=True))

    # ---- results ----

    def decode(self, predictions: Mapping[Any, Any], examples: Any) -> list[Any]:
        """Of each question its first passages, {row: similarity}, the best first; {} of a passage."""
        asked = examples["is_question"][:]
        questions, passages = ([row for row, is_one in enumerate(asked) if is_one == kind] for kind in (True, False))
        results: list[dict[int, float]] = [{} for _ in asked]
        depth = DEPTH if self.settings.reader is None else max(DEPTH, self.settings.reader_top_k)
        if passages:
            vectors = np.stack([predictions[row] for row in passages])
            for row in questions:
                scores = vectors @ predictions[row]
                results[row] = {passages[index]: float(scores[index]) for index in top_k(scores, depth).tolist()}
        return results

    def metrics(self, results: Sequence[Any], examples: Any) -> dict[str, float]:
        positives, asked = examples["positives"][:], examples["is_question"][:]
        questions = [row for row, is_one in enumerate(asked) if is_one]
        if not questions:  # Determined's test mode evaluates one batch
            return {name: 0.0 for name, higher in self.higher_is_better.items() if higher}
        run = {str(row): [str(positives[passage][0]) for passage in results[row]] for row in questions}
        qrels = {str(row): {str(key): 1 for key in positives[row]} for row in questions}
        texts, answers = examples["text"][:], examples["answers"][:]
        ranks = (answer_rank((texts[one] for one in results[row]), answers[row]) for row in questions)
        return {**ranking_metrics(run, qrels, MEASURES), **has_answer_metrics(ranks, DEPTH)}

    def to_read(self, results: Sequence[Any], examples: Any) -> list[dict[str, Any]]:
        rows, top_k = examples[:], self.settings.reader_top_k
        return [
            {
                "question": rows["text"][row],
                **{name: rows[name][row] for name in ("id", "answers", "chat_history")},
                "passages": [
                    {**{name: rows[name][one] for name in ("id", "title", "text")}, "score": score}
                    for one, score in list(dict(result).items())[:top_k]
                ],
            }
            for row, result in enumerate(results)
            if rows["is_question"][row]
        ]

    def answers(self, results: Sequence[Any], examples: Any, questions: Any = None) -> list[Answer]:
        texts = list(map(_whole_text, examples))
        return [Answer(texts[next(iter(result))] if result else "") for result in results]

    def files(self, results: Sequence[Any], examples: Any) -> dict[str, Any]:
        ids, asked, texts = examples["id"][:], examples["is_question"][:], list(map(_whole_text, examples))
        lines = [
            {
                "id": ids[row],
                "question": texts[row],
                "passages": [
                    {"id": ids[one], "text": texts[one], "score": score} for one, score in list(result.items())[:DEPTH]
                ],
            }
            for row, result in enumerate(results)
            if asked[row]
        ]
        return {"rankings.jsonl": lines}


def _whole_text(row: Mapping[str, Any]) -> str:
    """What is encoded of a row of a validation."""
    text: str = row["text"] if row["is_question"] else passage_text(row)
    return text


def _trimmed(ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """Without the columns that are padding alone."""
    longest = int(mask.sum(-1).max())
    return {"input_ids": ids[:, :longest], "attention_mask": mask[:, :longest]}
