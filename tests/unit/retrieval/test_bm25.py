"""BM25 over either engine: scores by the formula, rankings by hand, ties, repeated words, languages, refusals."""

import errno
import json
import math
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_folders import PASSAGES, corpus_file, ids

from model_hub_rqa.errors import CheckpointError, ConfigError, DataError
from model_hub_rqa.records import Passage
from model_hub_rqa.retrieval import bm25
from model_hub_rqa.retrieval.bm25 import BM25Retriever, BM25Settings
from model_hub_rqa.retrieval.index_folder import build_index, check_index, open_index

ENGINES = ("tantivy", "bm25s")
each_engine = pytest.mark.parametrize("engine", ENGINES)


def in_a_byte(length: int) -> int:
    """A length as Lucene keeps it (SmallFloat.intToByte4): exact below 24, from there the distance in four bits."""
    shift = max((length - 24).bit_length() - 4, 0) if length >= 24 else 0
    return length if not shift else ((length - 24) >> shift << shift) + 24


def reference_bm25(texts: Sequence[str], query: str, k1: float, b: float, engine: str) -> list[float]:
    """The formula of bm25.py's docstring written out, for words between blanks."""
    split = [text.lower().split() for text in texts]
    mean = sum(map(len, split)) / len(split)
    scores = []
    for words in split:
        counts, score = Counter(words), 0.0
        length = in_a_byte(len(words)) if engine == "tantivy" else len(words)
        for word in query.lower().split():
            n = sum(word in other for other in split)
            idf = math.log(1 + (len(split) - n + 0.5) / (n + 0.5))
            if counts[word]:
                score += idf * counts[word] / (counts[word] + k1 * (1 - b + b * length / mean))
        scores.append(score * (k1 + 1) if engine == "tantivy" else score)
    return scores


WORDS = st.sampled_from(["red", "Blue", "green", "été", "x1", "q"])
TEXTS = st.lists(WORDS, max_size=6) | st.lists(WORDS, min_size=35, max_size=90)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(TEXTS.map(" ".join), min_size=1, max_size=8).filter(any),
    st.lists(WORDS, max_size=6).map(" ".join),
    st.sampled_from([("tantivy", 1.2, 0.75), ("bm25s", 0.0, 0.4), ("bm25s", 0.9, 0.0), ("bm25s", 1.2, 1.0)]),
    st.integers(1, 10),
)
def test_parity_with_the_formula(texts: list[str], query: str, engine: tuple[str, float, float], k: int) -> None:
    """Scores are the formula's, repeated words of the query count each time, and the ranking is that of the scores."""
    name, k1, b = engine
    chosen = BM25Settings(name, "none", **({} if name == "tantivy" else {"k1": k1, "b": b}))
    hits = BM25Retriever.build([Passage(str(i), text) for i, text in enumerate(texts)], chosen).search([query], k)[0]
    expected = reference_bm25(texts, query, k1, b, name)
    matching = sorted((score for score in expected if score > 0), reverse=True)
    assert [hit.score for hit in hits] == pytest.approx(matching[:k], rel=1e-5)
    for hit in hits:
        assert hit.score == pytest.approx(expected[int(hit.passage.id)], rel=1e-5)
    positions = [(-round(hit.score, 4), int(hit.passage.id)) for hit in hits]
    assert positions == sorted(positions)


@each_engine
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("cat mat", ["1", "4", "3", "2"]),
        ("CATS", ["1", "4", "2"]),
        ("the", ["3", "1", "4"]),
        ("red red mat", ["3", "1", "4"]),
        ("", []),
        ("unknown …", []),
    ],
)
def test_rankings_by_hand(engine: str, query: str, expected: list[str]) -> None:
    """Titles count as text, equal scores stand in the corpus' order, and what shares no word is not among the hits."""
    retriever = BM25Retriever.build(PASSAGES, BM25Settings(engine))
    (hits,) = retriever.search([query], 9)
    assert ids(hits) == expected
    assert all(hit.score > 0 for hit in hits)
    assert retriever.search([query, "x"], 2) == [hits[:2], []]


@each_engine
def test_ties_stand_in_the_order_of_the_corpus(engine: str, tmp_path: Path) -> None:
    """However many there are, for every k, in memory as from a folder."""
    texts = ["cat dog", "dog cat", "cat", "bird dog cat"] * 60
    passages = [Passage(str(i), text) for i, text in enumerate(texts)]
    built = BM25Retriever.build(passages, BM25Settings(engine), folder=tmp_path)
    order = {"cat dog": 0, "dog cat": 0, "bird dog cat": 1, "cat": 2}
    (whole,) = built.search(["dog cat"], 1000)
    assert [int(one) for one in ids(whole)] == sorted(range(240), key=lambda i: (order[texts[i]], i))
    assert len({hit.score for hit in whole}) == 3
    for k in (1, 3, 59, 119, 120, 121, 200, 239):
        assert built.search(["dog cat"], k) == [whole[:k]]
    assert BM25Retriever.load(tmp_path, passages, built.settings).search(["dog cat"], 150) == [whole[:150]]


class Unsteady:
    """In place of tantivy's searcher: passages lie in several pieces, and equal scores differ in their last bits."""

    num_docs = 300

    def __init__(self) -> None:
        ties = [(1 - i % 7 * 1e-8, (i * 37) % 200) for i in range(200)]
        self.hits = sorted([(2.0, 250), *ties, (0.5, 200)], reverse=True)

    def search(self, query: Any, limit: int, count: bool) -> Any:
        return SimpleNamespace(hits=self.hits[:limit])

    def fast_field_values(self, name: str, addresses: list[int]) -> list[int]:
        return addresses


def test_what_tantivy_adds_up_in_another_order_is_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of 32 bits depend on the order of their terms: the last bits do not decide, nor do they cut at k."""
    engine = BM25Retriever.build(PASSAGES)._engine
    monkeypatch.setattr(engine, "_searcher", Unsteady())
    monkeypatch.setattr(engine, "n_passages", Unsteady.num_docs)
    expected = [(250, 2.0), *((i, 1.0) for i in range(200)), (200, 0.5)]
    for k in (1, 2, 30, 200, 201, 202, 300):
        assert engine.best(["word"], k) == expected[:k]


XQUAD = {
    "english": [
        ("Who threw the most touchdown passes?", "Peyton threw 55 touchdown passes, the most of any season."),
        ("What is the U.S. capital?", "Washington became the capital of the U.S. in 1800."),
        ("When do shops close?", "Shops are closing at nine o'clock."),
        ("Who wrote the C compiler?", "Ritchie wrote a compiler for the language C."),
        ("How long is the river?", "The rivers are 3.5 miles long."),
        ("Where do penguins live?", "A penguin lives in the cold south."),
    ],
    "chinese": [
        ("谁写了红楼梦?", "《红楼梦》的作者一般认为是曹雪芹。"),
        ("长城有多长?", "长城总长超过两万公里。"),
        ("北京的人口是多少?", "北京市常住人口约两千万。"),
        ("熊猫吃什么?", "大熊猫主要以竹子为食。"),
        ("黄河在哪里入海?", "黄河在山东省注入渤海。"),
        ("谁发明了造纸术?", "蔡伦改进了造纸术。"),
    ],
    "hindi": [
        ("ताजमहल किसने बनवाया?", "ताजमहल शाहजहाँ ने आगरा में बनवाया था।"),
        ("गंगा नदी कहाँ से निकलती है?", "गंगा गंगोत्री हिमनद से निकलती है।"),
        ("भारत की राजधानी क्या है?", "नई दिल्ली भारत की राजधानी है।"),
        ("क्रिकेट में कितने खिलाड़ी होते हैं?", "क्रिकेट की टीम में ग्यारह खिलाड़ी खेलते हैं।"),
        ("हिमालय की सबसे ऊँची चोटी कौन सी है?", "एवरेस्ट हिमालय की सबसे ऊँची चोटी है।"),
        ("मोर कहाँ पाया जाता है?", "मोर भारत का राष्ट्रीय पक्षी है।"),
    ],
}


@each_engine
@pytest.mark.parametrize("language", XQUAD)
def test_questions_find_their_passages(engine: str, language: str) -> None:
    """Among 18 passages of three languages, each question's own is among the first five, and most often the first."""
    corpus = [Passage(f"{name} {i}", text) for name, pairs in XQUAD.items() for i, (_, text) in enumerate(pairs)]
    hits = BM25Retriever.build(corpus, BM25Settings(engine, language)).search([q for q, _ in XQUAD[language]], 5)
    own = [f"{language} {i}" for i in range(6)]
    assert all(one in ids(found) for one, found in zip(own, hits, strict=True))
    assert sum(one == ids(found)[0] for one, found in zip(own, hits, strict=True)) >= 5


def test_the_engine_is_chosen_by_its_settings() -> None:
    """tantivy; bm25s where k1 or b is given, with tantivy's for the other; only what an engine needs must be there."""
    assert BM25Settings() == BM25Settings("tantivy")
    assert BM25Settings(b=0.4) == BM25Settings("bm25s", k1=1.2, b=0.4)
    assert BM25Settings("bm25s") == BM25Settings("bm25s", k1=1.2, b=0.75)
    assert BM25Settings().needed_libraries() == ("tantivy", "Stemmer")
    assert BM25Settings(language="thai", stopwords="de").needed_libraries() == ("tantivy", "bm25s")
    assert BM25Settings("bm25s", "hi", "english").needed_libraries() == ("bm25s", "Stemmer")


def test_errors_of_settings() -> None:
    """Every field at error is named at once; a corpus without a word is refused."""
    wrong = {"language": "latin1", "stopwords": "hindi", "words_version": 1}
    with pytest.raises(ConfigError, match=r"^k1: must be a number from 0 on, got nan") as raised:
        BM25Retriever.build(PASSAGES, BM25Settings(k1=math.nan, b=2, **wrong))
    named = ["k1", "b", "language", "stopwords", "words_version"]
    assert [error.split(":")[0] for error in raised.value.errors] == named
    assert BM25Settings("lucene").errors() == ["engine: must be tantivy or bm25s, got 'lucene'"]
    assert BM25Settings("tantivy", k1=1.2, b=0.4).errors() == [
        "k1: is fixed at 1.2 in tantivy, got 1.2: set engine to bm25s",
        "b: is fixed at 0.75 in tantivy, got 0.4: set engine to bm25s",
    ]
    for engine in ENGINES:
        with pytest.raises(DataError, match="none of its 1 passages has a word"):
            BM25Retriever.build([Passage("1", "the …")], BM25Settings(engine, stopwords="english"))
    with pytest.raises(ConfigError, match="k: must be at least 1, got 0"):
        BM25Retriever.build(PASSAGES).search(["cat"], 0)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return corpus_file(tmp_path)


@each_engine
def test_an_index_of_other_words_is_refused(
    engine: str, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the rules have another version, or a library gives other stems than when the index was built."""
    folder = tmp_path / "index"
    manifest = build_index(corpus, folder, BM25Settings(engine))
    assert manifest.settings["words_version"] == bm25.VERSION
    open_index(folder)
    with monkeypatch.context() as patched:
        patched.setattr(bm25.Words, "_cut", lambda self, found: iter([found + "x"]))
        with pytest.raises(CheckpointError, match=r"lacks the word 'catsx' of passage 1: .* index anew"):
            open_index(folder)
    with monkeypatch.context() as patched:
        patched.setattr(bm25, "VERSION", 3)
        with pytest.raises(CheckpointError, match=r"has words by rules 2, this version by 3: index anew"):
            open_index(folder)


def old_index(folder: Path) -> None:
    """The manifest that version 0.1 wrote for a BM25 index."""
    old: dict[str, Any] = {"kind": "bm25", "corpus_file": "c", "corpus_sha256": "", "n_documents": 1, "n_skipped": 0}
    old |= {"n_passages": 1, "passage_words": None, "passage_stride": None, "on_bad_record": "error", "versions": {}}
    old |= {"settings": {"k1": 1.2, "b": 0.75, "stopwords": "english", "stemmer": ""}, "model_sha256": "", "sha256": {}}
    old |= {"format_version": 1}
    from model_hub_rqa.retrieval.base import json_sum

    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({**old, "manifest_sha256": json_sum(old)}))


def test_an_index_of_version_01_is_refused(tmp_path: Path) -> None:
    """Its words were others."""
    old_index(tmp_path / "old")
    with pytest.raises(CheckpointError, match=r"has the format 1, .*: index anew"):
        check_index(tmp_path / "old")


def test_a_lock_that_comes_late_does_no_harm(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread of tantivy may write into the folder of links while it is removed: it is removed once more."""
    build_index(corpus, tmp_path / "index", BM25Settings())
    plain, seen = shutil.rmtree, list[Path]()

    def rmtree(path: Any, *args: Any, **kwargs: Any) -> None:
        seen.append(Path(path))
        if len(seen) == 1:
            raise OSError(errno.ENOTEMPTY, "Directory not empty", str(path))
        plain(path, *args, **kwargs)

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    assert ids(open_index(tmp_path / "index").search(["red"], 3)[0]) == ["3"]
    assert len(seen) == 2
    assert not seen[0].exists()


def test_the_index_folder_stays_as_it_was_written(corpus: Path, tmp_path: Path) -> None:
    """Its files, those in tantivy's folder too, are in the manifest; opening and searching leave no lock among them."""
    folder = tmp_path / "index"
    manifest = build_index(corpus, folder, BM25Settings())
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path != folder}
    opened = open_index(folder)
    assert ids(opened.search(["red"], 3)[0]) == ["3"]
    (folder / "verified.json").unlink()  # all that opening adds
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path != folder} == before
    names = {path.relative_to(folder).as_posix() for path in before if path.is_file()}
    assert names == {*manifest.sha256, "manifest.json"}
    assert sum(name.startswith("tantivy/") for name in names) > 3
    for name in ("tantivy/meta.json", next(name for name in names if name.endswith(".idx"))):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(CheckpointError, match=f"{name}: damaged"):
            open_index(folder)
        (folder / name).write_bytes(content)
    (folder / "tantivy/meta.json").write_text("{}")
    with pytest.raises(CheckpointError, match="cannot be loaded by tantivy"):
        open_index(folder, verify=False)
