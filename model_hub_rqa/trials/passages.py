"""PassageTrial: what trials share that write answers from passages, the records' own or retrieved ones."""

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model_hub_rqa.data.arrow_cache import Reader, cache_folder
from model_hub_rqa.data.formats.fid import fusion_reader
from model_hub_rqa.errors import ConfigError, Faults
from model_hub_rqa.libraries import check_libraries
from model_hub_rqa.metrics.documents import document_metrics
from model_hub_rqa.metrics.generation import generation_metrics
from model_hub_rqa.metrics.text import AnswerRules
from model_hub_rqa.registry import RETRIEVERS
from model_hub_rqa.retrieval.base import Retriever
from model_hub_rqa.retrieval.index_folder import read_manifest
from model_hub_rqa.tasks.passages.answer_text import AnswerDecoder, answer_sources
from model_hub_rqa.tasks.passages.choose import choose_passages, retrieve_passages
from model_hub_rqa.tasks.passages.settings import PassageKwargs
from model_hub_rqa.trials.task_trial import TaskTrial

_SPARE = 10  # passages retrieved beyond those wanted, since the same text may stand in a corpus several times

_ANSWER_METRICS = {"exact_match": True, "f1": True, "rougeL": True}
_DOCUMENT_METRICS = {
    "document_accuracy": True,
    "document_recall": True,
    "document_recall@1": True,
    "likely_document_accuracy": True,
    "likely_document_recall": True,
    "ndcg": True,
}


class PassageTrial(TaskTrial):
    """Reads questions with passages, chooses or retrieves what is read, and scores the answers that were written.

    Where ``output_dir`` is set, a validation writes predictions.jsonl there (of several sets, predictions_NAME.jsonl):
    question, prediction, references and the passages read.

    Attributes:
        passages: {"train", "validation"} examples with the passages that are read.
    """

    settings: PassageKwargs

    @property
    def higher_is_better(self) -> Mapping[str, bool | None]:
        """Of the scores of `answer_metrics`."""
        return {**_ANSWER_METRICS, **(_DOCUMENT_METRICS if self.settings.retrieves else {})}

    def load_examples(self) -> Mapping[str, Any]:
        entries: dict[str, Any] = {
            f"data.{side}[{i}]": one for side, sets in self.named_sets.items() for i, one in enumerate(sets)
        }
        named = {place: one.dataset_name for place, one in {**entries, "data": self.data}.items()}
        faults = [
            f"{place}.dataset_name: questions with passages come from files (train_file, validation_file), got {name!r}"
            for place, name in named.items()
            if name is not None
        ]
        if faults:
            raise ConfigError(faults)
        if self.settings.retrieves:  # a search comes at the end of long work
            kind = "dense" if self.settings.index is None else read_manifest(Path(self.settings.index)).kind
            retriever: Any = RETRIEVERS.find(kind)
            check_libraries("ir_measures", *retriever.libraries)
        return super().load_examples()

    def build_reader(self) -> Reader:
        # Retrieval among the records' own passages needs them; without, gold passages are welcome and not needed.
        retrieved = self.settings.embedding_model and (self.settings.index or self.settings.corpus_file)
        return fusion_reader(require_passages=not retrieved)

    def build_retriever(self) -> tuple[Retriever, str]:
        """What finds passages where the data section asks for retrieval, and a text that says what it depends on."""
        from model_hub_rqa.tasks.passages.frozen import fingerprint, frozen_index

        records = (record for examples in self.examples.values() for record in examples)
        index = frozen_index(self.settings, records, cache_folder(self.data.cache_dir) / "indexes")
        return index, fingerprint(index)

    def build_datasets(self) -> Mapping[str, Any]:
        found = self.build_retriever() if self.settings.retrieves else None
        self.passages = {"train": self.training_passages(found), "validation": self.validation_passages(found)}
        faults = Faults()
        features = {split: faults.attempt(self.build_features, split) for split in self.passages}
        faults.raise_any()
        return features

    def build_features(self, split: str) -> Any:
        """The features of ``self.passages[split]``."""
        raise NotImplementedError("a task's trial builds its own features")

    def training_passages(self, found: tuple[Retriever, str] | None) -> Any:
        """The training examples with the passages that are read: the record's own, or, where embedding_model is
        given, its gold ones among those retrieved."""
        examples, settings = self.examples["train"], self.settings
        if found is None or not settings.embedding_model:
            return choose_passages(
                examples,
                n_context=settings.n_context,
                num_hard_negatives=settings.num_hard_negatives,
                seed=self.seed,
                overwrite_cache=self.data.overwrite_cache,
            )
        return self._retrieved(examples, found, settings.embedding_max_num_to_retrieve, keep_gold=True)

    def validation_passages(self, found: tuple[Retriever, str] | None) -> Any:
        """The validation examples with the passages that are read: retrieved ones alone where there is a retriever."""
        examples, settings = self.examples["validation"], self.settings
        if found is None:
            return choose_passages(
                examples, n_context=settings.n_context, seed=self.seed, overwrite_cache=self.data.overwrite_cache
            )
        wanted = settings.embedding_max_num_to_retrieve
        if not settings.embedding_model and settings.n_context is not None:
            wanted = settings.n_context  # trained on so many of the records' own
        return self._retrieved(examples, found, wanted, keep_gold=False)

    def _retrieved(self, examples: Any, found: tuple[Retriever, str], wanted: int, *, keep_gold: bool) -> Any:
        retriever, fingerprint = found
        gold = max((sum(passage["gold"] for passage in row) for row in examples["passages"]), default=0)
        return retrieve_passages(
            examples,
            functools.partial(retriever.search, k=wanted + gold + _SPARE),
            max_num_to_retrieve=wanted,
            n_context=self.settings.n_context,
            keep_gold=keep_gold,
            seed=self.seed,
            fingerprint=fingerprint,
            overwrite_cache=self.data.overwrite_cache,
        )

    @functools.cached_property
    def answer_decoder(self) -> AnswerDecoder:
        """Makes texts of generated tokens."""
        return AnswerDecoder(self.tokenizer)

    def answer_texts(self, tokens: Any, indices: Sequence[int]) -> list[str]:
        """The texts of generated answers [B, T] to the validation examples ``indices``, as the passages spell them."""
        read = (self.passages["validation"][index] for index in indices)
        sources = (answer_sources(row["question"], row["passages"]) for row in read)
        return [self.answer_decoder(ids, texts) for ids, texts in zip(tokens.tolist(), sources, strict=True)]

    def answer_metrics(self, numbers: Sequence[Any], predictions: Sequence[str]) -> dict[str, float]:
        """Scores of the answers to the validation examples ``numbers``, which are written to predictions.jsonl."""
        examples = self.evaluated(self.passages["validation"], numbers)
        self._write(examples, predictions)
        references = examples["answers"][:]
        rules = self.answer_rules(references)
        scores = generation_metrics(predictions, references, rules=rules)
        return {**scores, **self.retrieval_metrics(list(numbers), rules)}

    def retrieval_metrics(self, numbers: list[Any], rules: AnswerRules) -> dict[str, float]:
        """How well the frozen retriever found the gold passages of these validation examples; nothing without one."""
        if not self.settings.retrieves:
            return {}
        read, given = (source["validation"].select(numbers)["passages"] for source in (self.passages, self.examples))
        retrieved = [[passage["text"] for passage in row] for row in read]
        gold = [[passage["text"] for passage in row if passage["gold"]] for row in given]
        return document_metrics(retrieved, gold, rules=rules)

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
