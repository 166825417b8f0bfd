"""BM25 (Robertson and Zaragoza 2009) in Lucene's form, through bm25s (Lù 2024, arXiv:2407.03618).

The score of a passage is the sum over the query's words, each as often as the query has it, of
``ln(1 + (N - n + 0.5) / (n + 0.5)) * f / (f + k1 * (1 - b + b * l / mean l))``: N passages, n of them with the word,
f times in this one, which has l words. Words are runs of two or more letters, digits and underscores, in lower case,
without the stop words; with a stemmer, their stems.
"""

import logging
import math
import re
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from model_hub_rqa.errors import CheckpointError, ConfigError, DataError
from model_hub_rqa.libraries import require
from model_hub_rqa.records import Hit, Passage
from model_hub_rqa.registry import RETRIEVERS
from model_hub_rqa.retrieval.base import (
    PassageStore,
    Report,
    Retriever,
    RetrieverSettings,
    Written,
    check_k,
    no_report,
    passage_text,
    top_k,
)

LANGUAGES = (
    *("danish", "dutch", "english", "french", "german", "italian", "korean", "norwegian", "portuguese", "russian"),
    *("spanish", "swedish", "turkish"),
)  # those with stop words
_WORD = re.compile(r"\w\w+")


@RETRIEVERS.register("bm25")
@dataclass(frozen=True)
class BM25Settings(RetrieverSettings):
    """How passages are scored; by default as Lucene does, but without a stemmer.

    Attributes:
        k1: how much it counts that a word is repeated.
        b: how much longer passages are held back, 0 to 1.
        stopwords: the language whose commonest words are passed over, one of :data:`LANGUAGES`; "" for none.
        stemmer: the language whose words are cut to their stems (needs PyStemmer, the extra "stemmer"); "" for none.
    """

    kind: ClassVar[str] = "bm25"
    libraries: ClassVar[tuple[str, ...]] = ("bm25s",)
    packages: ClassVar[tuple[str, ...]] = ("bm25s", "PyStemmer", "numpy")

    k1: float = 1.2
    b: float = 0.75
    stopwords: str = "english"
    stemmer: str = ""

    def errors(self) -> list[str]:
        """A line for each field that breaks a rule."""
        errors = []
        if not 0 <= self.k1 < math.inf:
            errors.append(f"k1: must be a number from 0 on, got {self.k1}")
        if not 0 <= self.b <= 1:
            errors.append(f"b: must be from 0 to 1, got {self.b}")
        if self.stopwords and self.stopwords not in LANGUAGES:
            errors.append(f"stopwords: must be one of {', '.join(LANGUAGES)}, got {self.stopwords!r}")
        if self.stemmer:
            try:
                known = require("Stemmer").algorithms()
                if self.stemmer not in known:
                    errors.append(f"stemmer: must be one of {', '.join(known)}, got {self.stemmer!r}")
            except ConfigError as error:
                errors += [f"stemmer: {line}" for line in error.errors]
        return errors

    def write(self, passages: PassageStore, folder: Path, *, batch_size: int, report: Report) -> Written:
        BM25Retriever.build(passages, self, report).save(folder)
        return Written(self)

    def opener(
        self, folder: Path, model: Mapping[str, str], embedding_model: str | None
    ) -> tuple[Callable[[PassageStore], Retriever], list[str]]:
        return partial(BM25Retriever.load, folder, settings=self), []


class BM25Retriever:
    """Scores passages by the words that they share with a query. A passage that shares none has the score 0.

    Made by :meth:`build` or :meth:`load`.
    """

    def __init__(self, passages: Sequence[Passage], settings: BM25Settings, model: Any) -> None:
        self.passages = passages
        self.settings = settings
        self._model = model
        self._words = _Words(settings)

    @classmethod
    def build(
        cls, passages: Sequence[Passage], settings: BM25Settings | None = None, report: Report = no_report
    ) -> "BM25Retriever":
        """Indexes passages, in memory: some 50 bytes for each different word of each passage while it runs.

        Raises:
            ConfigError: the settings break a rule, or a library is missing.
            DataError: no passage has a word.
        """
        settings = settings or BM25Settings()
        errors = settings.errors()
        if errors:
            raise ConfigError(errors)
        bm25s = _bm25s()
        words = _Words(settings)
        token_ids = _TokenIds()
        for number, passage in enumerate(passages, 1):
            token_ids.append(words.ids(passage_text(passage)))
            report("splitting into words", number, len(passages))
        if not words.vocabulary:
            raise DataError(f"corpus: none of its {len(passages):,} passages has a word of two letters to search for")
        model = bm25s.BM25(k1=settings.k1, b=settings.b, method="lucene", backend="numpy")
        tokenized = bm25s.tokenization.Tokenized(ids=token_ids, vocab=words.vocabulary)
        model.index(tokenized, create_empty_token=False, show_progress=False)
        return cls(passages, settings, model)

    def save(self, folder: Path) -> None:
        """Writes the files of the index into an existing folder; the passages are not among them."""
        self._model.save(folder, show_progress=False)

    @classmethod
    def load(cls, folder: Path, passages: Sequence[Passage], settings: BM25Settings) -> "BM25Retriever":
        """Opens what :meth:`save` wrote; the arrays stay on disk.

        Raises:
            CheckpointError: the files are not such an index, or one of other passages.
            ConfigError: bm25s, or the stemmer, is not installed.
        """
        bm25s = _bm25s()
        errors = settings.errors()
        if errors:
            raise ConfigError(errors)
        try:
            model = bm25s.BM25.load(folder, mmap=True, backend="numpy", show_progress=False)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{folder}: cannot be loaded by bm25s {bm25s.__version__}: {error}") from error
        if model.scores["num_docs"] != len(passages):
            found = f"{model.scores['num_docs']:,} passages, {len(passages):,} are there"
            raise CheckpointError(f"{folder}: the BM25 index is of {found}")
        return cls(passages, settings, model)

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """As :class:`~model_hub_rqa.retrieval.base.Retriever` says."""
        check_k(k)
        return [self._search(query, k) for query in queries]

    def _search(self, query: str, k: int) -> list[Hit]:
        import numpy as np

        known = self._model.vocab_dict
        ids = [known[word] for word in self._words.of(query) if word in known]
        # get_scores_from_ids takes no empty list
        scores = self._model.get_scores_from_ids(ids) if ids else np.zeros(len(self.passages), dtype=np.float32)
        return [Hit(self.passages[int(i)], float(scores[i])) for i in top_k(scores, k)]


class _Words:
    """Text into words, and words into the ids that they have been given so far."""

    def __init__(self, settings: BM25Settings) -> None:
        self.vocabulary: dict[str, int] = {}
        self._stop = _stop_words(settings.stopwords)
        self._stem = require("Stemmer").Stemmer(settings.stemmer).stemWord if settings.stemmer else str
        self._known: dict[str, int | None] = dict.fromkeys(self._stop)  # by word as it stands in the text

    def of(self, text: str) -> list[str]:
        return [self._stem(word) for word in _WORD.findall(text.lower()) if word not in self._stop]

    def ids(self, text: str) -> list[int]:
        ids = []
        for word in _WORD.findall(text.lower()):
            if word not in self._known:
                self._known[word] = self.vocabulary.setdefault(self._stem(word), len(self.vocabulary))
            id_ = self._known[word]
            if id_ is not None:
                ids.append(id_)
        return ids


def _bm25s() -> Any:
    module = require("bm25s")
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it asks for all of its debugging output by itself
    return module


def _stop_words(language: str) -> frozenset[str]:
    if not language:
        return frozenset()
    suffix = "EN" if language == "english" else language.upper()
    return frozenset(getattr(_bm25s().stopwords, f"STOPWORDS_{suffix}"))


class _TokenIds:
    """Token ids of all passages in four bytes each; bm25s goes through them several times."""

    def __init__(self) -> None:
        self._flat = array("i")
        self._ends = array("q", [0])

    def append(self, ids: list[int]) -> None:
        self._flat.extend(ids)
        self._ends.append(len(self._flat))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __iter__(self) -> Iterator[list[int]]:
        for begin, end in zip(self._ends, self._ends[1:], strict=False):
            yield self._flat[begin:end].tolist()
