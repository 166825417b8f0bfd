"""PassageTask: what tasks share that generate answers from passages, the records' own or retrieved ones."""

import contextlib
import functools
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, ClassVar, NamedTuple

from model_hub_rqa.data.arrow_cache import FileLoader, cache_folder
from model_hub_rqa.data.formats.fid import fusion_reader
from model_hub_rqa.data.formats.fields import parse_format
from model_hub_rqa.errors import DataError, RqaError, renamed
from model_hub_rqa.libraries import check_libraries
from model_hub_rqa.metrics.documents import document_metrics
from model_hub_rqa.metrics.generation import generation_metrics
from model_hub_rqa.records import Answer, Passage, Question
from model_hub_rqa.retrieval.base import Retriever
from model_hub_rqa.retrieval.dense import DenseSettings
from model_hub_rqa.retrieval.queries import build_queries, parse_queries
from model_hub_rqa.retrieval.search import SearchSettings, check_retriever
from model_hub_rqa.tasks.base import Task
from model_hub_rqa.tasks.passages.choose import choose_passages, retrieve_passages, task_retriever
from model_hub_rqa.tasks.passages.generation import AnswerDecoder, answer_sources

_OVER_FETCH = 10  # passages retrieved beyond those wanted, since the same text may stand in a corpus several times

_ANSWER_METRICS = {"exact_match": True, "f1": True, "rougeL": True}
_DOCUMENT_METRICS: dict[str, bool | None] = {
    "document_accuracy": True,
    "document_recall": True,
    "document_recall@1": True,
    "ndcg": True,
    "same_document_accuracy": True,
    "same_document_recall": True,
    "contained_document_accuracy": True,
    "contained_document_recall": True,
    "compared_by_id": None,
}


class Generated(NamedTuple):
    """What `predict` gives for a question.

    Attributes:
        answer: the tokens that were generated, then, from `decode` on, their text; None where nothing was generated.
        loss, n_tokens: the cross entropy of the gold answer, summed over its tokens; 0 where it was not asked for.
        confidence: the geometric mean of the probabilities of the answer's tokens, its end included.
        passage_scores: shares of the passages that were read, which sum up to 1.
    """

    answer: Any
    loss: float = 0.0
    n_tokens: int = 0
    confidence: float | None = None
    passage_scores: tuple[float, ...] | None = None


class PassageTask(Task):
    """Generates answers to questions from their passages, and scores them against the gold answers.

    A validation writes predictions.jsonl: question, prediction, references and the passages that were read. Where
    passages are retrieved, it is end to end, and reports `document_metrics` as well.
    """

    smooths_labels = True
    reads_hub = False
    scores_answers: ClassVar[bool] = False  # whether the scores of passages need the gold answers
    batch_size = 8

    @property
    def higher_is_better(self) -> Mapping[str, bool | None]:
        return {**_ANSWER_METRICS, **(_DOCUMENT_METRICS if self.settings.retrieves else {})}

    # ---- data ----

    @classmethod
    def reads_file(cls, path: str) -> bool:
        return False

    def file_loader(self, *, labelled: bool = True) -> FileLoader | None:
        search = self.settings.search
        if search is not None:  # a search comes at the end of long work
            check_libraries("ir_measures", *([] if search.index else DenseSettings.libraries))
            with _named_in_data():
                parse_queries(self.settings.query_template, self.settings.query_rewriter)
                check_retriever(search, verify=False)
        # Retrieval among the records' own passages needs them; without, gold passages are welcome and not needed.
        retrieved = self.settings.embedding_model and (self.settings.index or self.settings.corpus_file)
        with _named_in_data():
            question_format = parse_format(self.settings.format, self.settings.fields)
        return fusion_reader(require_passages=not retrieved, question_format=question_format)

    def build_retriever(self, examples: Mapping[str, Any]) -> tuple[Retriever, str]:
        """What finds passages where the settings ask for retrieval, and a text that says what it depends on."""
        records = (record for split in examples.values() for record in split)
        with _named_in_data():
            retriever: Any = task_retriever(self.settings, records, cache_folder(self.cache_dir) / "indexes")
        return retriever, retriever.fingerprint

    def prepare(self, examples: Mapping[str, Any]) -> Mapping[str, Any]:
        """The examples with the passages that are read."""
        retriever = self.build_retriever(examples) if self.settings.retrieves else None
        train, validation = (self._training_passages, self._validation_passages)
        return {
            "train": train(examples["train"], retriever),
            "validation": validation(examples["validation"], retriever),
        }

    def _training_passages(self, examples: Any, retriever: tuple[Retriever, str] | None) -> Any:
        """The record's own passages, or, where embedding_model is given, its gold ones among those retrieved."""
        settings = self.settings
        if retriever is None or not settings.embedding_model:
            return choose_passages(
                examples,
                n_context=settings.n_context,
                num_hard_negatives=settings.num_hard_negatives,
                seed=self.seed,
                overwrite_cache=self.overwrite_cache,
            )
        return self._retrieved(examples, retriever, settings.embedding_max_num_to_retrieve, keep_gold=True)

    def _validation_passages(self, examples: Any, retriever: tuple[Retriever, str] | None) -> Any:
        """Retrieved passages alone where there is a retriever, with the gold ones in the column gold_passages."""
        settings = self.settings
        if retriever is None:
            return choose_passages(
                examples, n_context=settings.n_context, seed=self.seed, overwrite_cache=self.overwrite_cache
            )
        wanted = settings.embedding_max_num_to_retrieve
        if not settings.embedding_model and settings.n_context is not None:
            wanted = settings.n_context  # trained on so many of the records' own
        gold = [
            [{name: passage[name] for name in ("id", "text", "title")} for passage in row if passage["gold"]]
            for row in examples["passages"]
        ]
        return self._retrieved(examples, retriever, wanted, keep_gold=False).add_column("gold_passages", gold)

    def _retrieved(self, examples: Any, retriever: tuple[Retriever, str], wanted: int, *, keep_gold: bool) -> Any:
        index, fingerprint = retriever
        with _named_in_data():
            queries = build_queries(self.settings.query_template, self.settings.query_rewriter)
        gold = max((sum(passage["gold"] for passage in row) for row in examples["passages"]), default=0)
        return retrieve_passages(
            examples,
            functools.partial(index.search, k=wanted + gold + _OVER_FETCH),
            max_num_to_retrieve=wanted,
            n_context=self.settings.n_context,
            keep_gold=keep_gold,
            seed=self.seed,
            queries=queries,
            fingerprint=fingerprint,
            overwrite_cache=self.overwrite_cache,
        )

    def examples_of(self, questions: Sequence[Question]) -> Any:
        from datasets import Dataset

        n_context = self.settings.n_context
        return Dataset.from_dict(
            {
                "id": [question.id for question in questions],
                "question": [question.text for question in questions],
                "chat_history": [
                    [{"role": turn.role, "text": turn.text} for turn in question.chat_history] for question in questions
                ],
                "passages": [
                    [{"title": passage.title, "text": passage.text} for passage in question.passages[:n_context]]
                    for question in questions
                ],
                "target": [""] * len(questions),
                "answers": [[""]] * len(questions),
            }
        )

    # ---- what a passage is worth to the reader ----

    def scoring_examples(self, rows: Sequence[Mapping[str, Any]]) -> tuple[Any, list[int]]:
        """What is read to score passages.

        Args:
            rows: of `read_fusion`: questions with passages and, where the score needs them, answers.

        Returns:
            Examples, a datasets.Dataset, and of each the number of its question: an example has the passages of its
            question in their order, or one of them.

        Raises:
            DataError: the task gives no scores, or a question lacks what it needs.
        """
        raise DataError(f"{self.name}: gives passages no scores")

    def score_passages(self, model: Any, batch: Mapping[str, Any]) -> dict[Any, list[float]]:
        """The scores of the passages of each example of a batch, by example_index: to be compared within a question,
        as logarithms of shares are."""
        raise DataError(f"{self.name}: gives passages no scores")

    # ---- predictions ----

    def note_questions(self, examples: Any) -> None:
        """Draws of ``do_sample`` depend on the questions that are read together, so that a reader repeats itself."""
        self._question_seeds = [zlib.crc32(text.encode()) for text in examples["question"]]

    def sampling_seed(self, indices: Sequence[int]) -> tuple[int, ...]:
        """Of a batch: of a validation the run's seed and the examples' indices, else the questions."""
        if self.wants_loss:
            return (self.seed, *indices)
        return tuple(self._question_seeds[index] for index in indices)

    @functools.cached_property
    def answer_decoder(self) -> AnswerDecoder:
        """Makes texts of generated tokens."""
        return AnswerDecoder(self.tokenizer)

    def decode(self, predictions: Mapping[Any, Any], examples: Any) -> list[Any]:
        """The answers as texts, spelt as the question and the passages spell them."""
        results = []
        for row, (question, passages) in enumerate(zip(examples["question"], examples["passages"], strict=True)):
            result: Generated = predictions[row]
            if result.answer is not None:
                result = result._replace(answer=self.answer_decoder(result.answer, answer_sources(question, passages)))
            results.append(result)
        return results

    def answer_metrics(self, results: Sequence[Any], examples: Any) -> dict[str, float]:
        """Scores of the answers that were generated, and of the passages where a retriever found them."""
        answered = [row for row, result in enumerate(results) if result.answer is not None]
        if not answered:
            return {}
        rows = examples if len(answered) == len(results) else examples.select(answered)
        references = rows["answers"][:]
        rules = self.answer_rules(references)
        scores = generation_metrics([results[row].answer for row in answered], references, rules=rules)
        if self.settings.retrieves:
            retrieved, gold = (
                [[Passage(one["id"], one["text"], one["title"]) for one in row] for row in rows[column]]
                for column in ("passages", "gold_passages")
            )
            scores |= document_metrics(retrieved, gold, rules=rules)
        return scores

    @staticmethod
    def mean_loss(results: Sequence[Any]) -> float:
        """The mean of the loss over all tokens."""
        return float(sum(one.loss for one in results) / sum(one.n_tokens for one in results))

    def files(self, results: Sequence[Any], examples: Any) -> dict[str, Any]:
        lines = []
        for result, example in zip(results, examples, strict=True):
            if result.answer is None:
                continue
            line = {
                "id": example["id"],
                "question": example["question"],
                "prediction": result.answer,
                "references": example["answers"],
                "passages": [
                    {name: passage[name] for name in ("id", "title", "text", "score")}
                    for passage in example["passages"]
                ],
            }
            lines.append(line)
        return {"predictions.jsonl": lines}

    def answers(
        self, results: Sequence[Any], examples: Any, questions: Sequence[Question] | None = None
    ) -> list[Answer]:
        """The texts; the score of a passage that was not read is 0."""
        if questions is None:
            return [Answer(result.answer or "", result.confidence) for result in results]
        given = []
        for result, question in zip(results, questions, strict=True):
            shares = result.passage_scores
            if shares is not None:
                shares = (*shares, *[0.0] * (len(question.passages) - len(shares)))
            given.append(Answer(result.answer, result.confidence, passage_scores=shares))
        return given


@contextlib.contextmanager
def _named_in_data() -> Iterator[None]:
    """Errors of formats' and of a search's settings name them as the ``data`` section has them."""
    try:
        yield
    except RqaError as error:
        names = [
            "format",
            "fields",
            "query_template",
            "query_rewriter",
            *(field.name for field in fields(SearchSettings)),
        ]
        raise renamed(error, {name: f"data.{name}" for name in names}) from error
