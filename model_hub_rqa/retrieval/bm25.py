"""BM25 (Robertson and Zaragoza 2009) in Lucene's form, through tantivy or bm25s (Lù 2024, arXiv:2407.03618).

The score of a passage is the sum over the query's words, each as often as the query has it, of
``ln(1 + (N - n + 0.5) / (n + 0.5)) * f / (f + k1 * (1 - b + b * l / mean l))``: N passages, n of them with the word,
f times in this one, which has l words. The words are those of `model_hub_rqa.retrieval.words`. tantivy multiplies by
``k1 + 1`` and keeps l in one byte, as Lucene does: above 40 it is rounded down, to 42, 44 ... 1,048, 1,176 ...
"""

import contextlib
import logging
import math
import shutil
import tempfile
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

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
from model_hub_rqa.retrieval.words import STEMMED, VERSION, Words, language_error, language_name, stopwords_error

_SUBFOLDER = "tantivy"
_HEAP = 256_000_000  # bytes of words that tantivy collects before it writes them
_PROBED = 20  # passages whose words are compared with the index's when it is opened


@RETRIEVERS.register("bm25")
@dataclass(frozen=True)
class BM25Settings(RetrieverSettings):
    """How texts are split into words, and passages scored.

    Attributes:
        engine: "tantivy", whose index stays on disk, or "bm25s", whose k1 and b can be set. By default "tantivy", or
            "bm25s" where k1 or b is given.
        language: whose stems replace words, by its name or code of ISO 639-1; "" or "none" for no stems.
        stopwords: the language whose commonest words are left out; "" or "none" for none.
        k1: how much it counts that a word is repeated; with bm25s, by default 1.2, which is tantivy's.
        b: how much longer passages are held back, 0 to 1; with bm25s, by default 0.75, which is tantivy's.
        words_version: of the rules that split texts into words (`words.VERSION`); not to be set.
    """

    kind: ClassVar[str] = "bm25"
    libraries: ClassVar[tuple[str, ...]] = ("tantivy", "bm25s", "Stemmer")
    packages: ClassVar[tuple[str, ...]] = ("tantivy", "bm25s", "PyStemmer", "regex", "numpy")

    engine: str = ""
    language: str = "english"
    stopwords: str = ""
    k1: float | None = None
    b: float | None = None
    words_version: int = VERSION

    def __post_init__(self) -> None:
        if not self.engine:
            object.__setattr__(self, "engine", "tantivy" if self.k1 is None and self.b is None else "bm25s")
        if self.engine == "bm25s":
            object.__setattr__(self, "k1", 1.2 if self.k1 is None else self.k1)
            object.__setattr__(self, "b", 0.75 if self.b is None else self.b)

    def errors(self) -> list[str]:
        """A line for each field that breaks a rule."""
        errors = []
        if self.engine not in _ENGINES:
            errors.append(f"engine: must be {' or '.join(_ENGINES)}, got {self.engine!r}")
        if self.engine == "tantivy":
            fixed = (("k1", self.k1, 1.2), ("b", self.b, 0.75))
            errors += [
                f"{name}: is fixed at {at} in tantivy, got {value}: set engine to bm25s"
                for name, value, at in fixed
                if value is not None
            ]
        else:
            if self.k1 is not None and not 0 <= self.k1 < math.inf:
                errors.append(f"k1: must be a number from 0 on, got {self.k1}")
            if self.b is not None and not 0 <= self.b <= 1:
                errors.append(f"b: must be from 0 to 1, got {self.b}")
        named = (("language", language_error(self.language)), ("stopwords", stopwords_error(self.stopwords)))
        errors += [f"{name}: {error}" for name, error in named if error is not None]
        if self.words_version != VERSION:
            errors.append(f"words_version: must be {VERSION}, got {self.words_version}")
        return errors

    def needed_libraries(self) -> tuple[str, ...]:
        stems = language_name(self.language) in STEMMED
        stops = bool(language_name(self.stopwords)) and self.engine != "bm25s"
        return (self.engine, *(["Stemmer"] if stems else []), *(["bm25s"] if stops else []))

    def write(self, passages: PassageStore, folder: Path, *, batch_size: int, report: Report) -> Written:
        BM25Retriever.build(passages, self, report, folder)
        return Written(self)

    def opener(
        self, folder: Path, model: Mapping[str, str], embedding_model: str | None
    ) -> tuple[Callable[[PassageStore], Retriever], list[str]]:
        errors = []
        if self.words_version != VERSION:
            errors.append(f"{folder}: has words by rules {self.words_version}, this version by {VERSION}: index anew")
        return partial(BM25Retriever.load, folder, settings=self), errors


class BM25Retriever:
    """Scores passages by the words that they share with a query; those that share none are not among the hits.

    Made by :meth:`build` or :meth:`load`.
    """

    def __init__(self, passages: Sequence[Passage], settings: BM25Settings, engine: "_Engine") -> None:
        self.passages = passages
        self.settings = settings
        self._engine = engine
        self._words = Words(settings.language, settings.stopwords)

    @classmethod
    def build(
        cls,
        passages: Sequence[Passage],
        settings: BM25Settings | None = None,
        report: Report = no_report,
        folder: Path | None = None,
    ) -> "BM25Retriever":
        """Indexes passages.

        bm25s takes some 50 bytes of memory for each different word of each passage while it builds.

        Args:
            passages: the corpus.
            settings: by default those of `BM25Settings`.
            report: told of the progress.
            folder: receives the files of the index, without the passages; it exists. None to keep it in memory.

        Raises:
            ConfigError: the settings break a rule, or a library is missing.
            DataError: no passage has a word.
        """
        settings = settings or BM25Settings()
        if errors := settings.errors():
            raise ConfigError(errors)
        split = Words(settings.language, settings.stopwords)
        n_words = 0

        def words() -> Iterator[list[str]]:
            nonlocal n_words
            for number, passage in enumerate(passages, 1):
                words = split(passage_text(passage))
                n_words += len(words)
                yield words
                report("splitting into words", number, len(passages))
            if not n_words:
                raise DataError(f"corpus: none of its {len(passages):,} passages has a word to search for")

        return cls(passages, settings, _ENGINES[settings.engine].build(words(), settings, folder))

    @classmethod
    def load(cls, folder: Path, passages: Sequence[Passage], settings: BM25Settings) -> "BM25Retriever":
        """Opens what :meth:`build` wrote; the index stays on disk.

        Raises:
            CheckpointError: the files are not such an index, or one of other passages or of other words.
            ConfigError: a library is not installed.
        """
        if errors := settings.errors():
            raise ConfigError(errors)
        engine = _ENGINES[settings.engine].load(folder)
        if engine.n_passages != len(passages):
            raise CheckpointError(
                f"{folder}: the BM25 index is of {engine.n_passages:,} passages, {len(passages):,} are there"
            )
        split = Words(settings.language, settings.stopwords)
        for passage in passages[:_PROBED]:
            unknown = [word for word in split(passage_text(passage)) if not engine.has(word)]
            if unknown:
                raise CheckpointError(
                    f"{folder}: lacks the word {unknown[0]!r} of passage {passage.id}: regex or PyStemmer split texts "
                    "into other words than when it was built, index anew"
                )
        return cls(passages, settings, engine)

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """As :class:`~model_hub_rqa.retrieval.base.Retriever` says."""
        check_k(k)
        k = min(k, len(self.passages))
        return [
            [Hit(self.passages[position], score) for position, score in self._engine.best(self._words(query), k)]
            for query in queries
        ]


class _Engine(Protocol):
    """An index of words; passages are known by their positions in the corpus."""

    n_passages: int

    @classmethod
    def build(cls, passages: Iterable[list[str]], settings: BM25Settings, folder: Path | None) -> Self: ...

    @classmethod
    def load(cls, folder: Path) -> Self: ...

    def has(self, word: str) -> bool: ...

    def best(self, words: list[str], k: int) -> list[tuple[int, float]]:
        """The ``k`` best passages that have one of ``words``, each with its score; k is at most their number."""
        ...


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    """A folder that is gone afterwards, though a thread of tantivy may still put a lock into it while it goes."""
    folder = Path(tempfile.mkdtemp(prefix="rqa-bm25-"))
    try:
        yield folder
    finally:
        for wait in (0.0, 0.01, 0.1, 1.0):
            time.sleep(wait)
            with contextlib.suppress(OSError):
                shutil.rmtree(folder)
                break


class _Tantivy:
    def __init__(self, index: Any) -> None:
        self._index = index
        self._searcher = index.searcher()
        self.n_passages: int = self._searcher.num_docs

    @classmethod
    def build(cls, passages: Iterable[list[str]], settings: BM25Settings, folder: Path | None) -> "_Tantivy":
        tantivy = require("tantivy")
        schema = tantivy.SchemaBuilder()
        schema.add_text_field("words", tokenizer_name="whitespace", index_option="freq")
        schema.add_unsigned_field("position", fast=True)
        path = None if folder is None else folder / _SUBFOLDER
        if path is not None:
            path.mkdir()
        index = tantivy.Index(schema.build(), path=None if path is None else str(path))
        writer = index.writer(heap_size=_HEAP, num_threads=1)
        for position, words in enumerate(passages):
            document = tantivy.Document()
            document.add_text("words", " ".join(words))
            document.add_unsigned("position", position)
            writer.add_document(document)
        writer.commit()
        writer.wait_merging_threads()
        index.reload()
        if path is not None:
            for lock in path.glob("*.lock"):
                lock.unlink()
        return cls(index)

    @classmethod
    def load(cls, folder: Path) -> "_Tantivy":
        """tantivy locks the folder that it reads, which may not be written to: it gets one of links to the files."""
        tantivy = require("tantivy")
        with _temporary_folder() as links:
            for path in (folder / _SUBFOLDER).resolve().iterdir():
                (links / path.name).symlink_to(path)
            try:
                index = tantivy.Index.open(str(links))
                index.config_reader("manual")  # it does not watch the folder; the files are open from here on
                return cls(index)
            except ValueError as error:
                raise CheckpointError(
                    f"{folder}: cannot be loaded by tantivy {tantivy.__version__}: {error}"
                ) from error

    def has(self, word: str) -> bool:
        return bool(self._searcher.doc_freq("words", word))

    def best(self, words: list[str], k: int) -> list[tuple[int, float]]:
        """As tantivy adds up a passage's score in an order of its own, scores that differ by less than a millionth are
        taken for equal: a few more are fetched until one is less than the last of the k, and sorted by position."""
        if not words:
            return []
        tantivy = require("tantivy")
        terms = [
            tantivy.Query.boost_query(tantivy.Query.term_query(self._index.schema, "words", word, "freq"), count)
            for word, count in Counter(words).items()
        ]
        query = tantivy.Query.boolean_query([(tantivy.Occur.Should, term) for term in terms])
        fetched = k
        while True:
            fetched = min(fetched + 10, self.n_passages)
            hits = self._searcher.search(query, fetched, count=False).hits
            if len(hits) < fetched or fetched == self.n_passages or hits[-1][0] < hits[k - 1][0] * (1 - 1e-6):
                break
            fetched *= 4
        positions = self._searcher.fast_field_values("position", [address for _, address in hits])
        equal: list[tuple[float, int]] = []
        highest = math.inf
        for (score, _), position in zip(hits, positions, strict=True):
            if score < highest * (1 - 1e-6):
                highest = score
            equal.append((-highest, position))
        return [(position, -score) for score, position in sorted(equal)[:k]]


class _BM25s:
    def __init__(self, model: Any) -> None:
        self._model = model
        self.n_passages: int = model.scores["num_docs"]

    @classmethod
    def build(cls, passages: Iterable[list[str]], settings: BM25Settings, folder: Path | None) -> "_BM25s":
        bm25s = _bm25s()
        vocabulary: dict[str, int] = {}
        ids = _TokenIds()
        for words in passages:
            ids.append([vocabulary.setdefault(word, len(vocabulary)) for word in words])
        model = bm25s.BM25(k1=settings.k1, b=settings.b, method="lucene", backend="numpy")
        tokenized = bm25s.tokenization.Tokenized(ids=ids, vocab=vocabulary)
        model.index(tokenized, create_empty_token=False, show_progress=False)
        if folder is not None:
            model.save(folder, show_progress=False)
        return cls(model)

    @classmethod
    def load(cls, folder: Path) -> "_BM25s":
        bm25s = _bm25s()
        try:
            return cls(bm25s.BM25.load(folder, mmap=True, backend="numpy", show_progress=False))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{folder}: cannot be loaded by bm25s {bm25s.__version__}: {error}") from error

    def has(self, word: str) -> bool:
        return word in self._model.vocab_dict

    def best(self, words: list[str], k: int) -> list[tuple[int, float]]:
        known = self._model.vocab_dict
        ids = [known[word] for word in words if word in known]
        if not ids:  # get_scores_from_ids takes no empty list
            return []
        scores = self._model.get_scores_from_ids(ids)
        return [(int(position), float(scores[position])) for position in top_k(scores, k) if scores[position] > 0]


_ENGINES: dict[str, type[_Tantivy | _BM25s]] = {"tantivy": _Tantivy, "bm25s": _BM25s}


def _bm25s() -> Any:
    module = require("bm25s")
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it asks for all of its debugging output by itself
    return module


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
