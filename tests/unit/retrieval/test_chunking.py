"""Documents are split at words, tokens, sentences or headings, and every passage knows where it is from."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers_for_tests
from hypothesis import given
from hypothesis import strategies as st

from model_hub_rqa.cli import main
from model_hub_rqa.errors import ConfigError
from model_hub_rqa.records import Passage
from model_hub_rqa.retrieval.base import PassageStore
from model_hub_rqa.retrieval.bm25 import BM25Settings
from model_hub_rqa.retrieval.chunking import Chunking, document_splitter, sentence_starts, split_document
from model_hub_rqa.retrieval.index_folder import build_index, open_index

# text, words, overlap, passages
WORDS = [
    ("a b c d", 2, 0, ["a b", "c d"]),
    ("a b c d e", 2, 0, ["a b", "c d", "e"]),
    ("a b c", 5, 0, ["a b c"]),
    ("a b c", 3, 0, ["a b c"]),
    (" a\n b  c ", 2, 0, ["a\n b", "c"]),
    ("a b c d e", 3, 1, ["a b c", "c d e"]),
    ("a b c d e f", 3, 1, ["a b c", "c d e", "e f"]),
    ("a b c d", 3, 2, ["a b c", "b c d"]),
    ("a b", 1, 0, ["a", "b"]),
    ("", 3, 0, [""]),
    ("我爱北京。你呢", 3, 1, ["我爱北", "北京。你", "你呢"]),
    ("AI は 新しい", 2, 0, ["AI は", "新し", "い"]),
    ("กินข้าว", 3, 0, ["กินข้", "าว"]),  # the vowel and the tone are of their letter
]  # fmt: skip


@pytest.mark.parametrize(("text", "size", "overlap", "expected"), WORDS)
def test_words(text: str, size: int, overlap: int, expected: list[str]) -> None:
    """Each passage has the title and a numbered id; characters of scripts without spaces are words."""
    found = list(split_document(Passage("d", text, "t"), Chunking(size=size, overlap=overlap)))
    assert found == [Passage(f"d#{i}", piece, "t") for i, piece in enumerate(expected)]


SENTENCES = [
    ("One. Two! Three?", ["One.", "Two!", "Three?"]),
    ("Dr. A. Smith paid 3.5 U.S. dollars. It, e.g. this.", ["Dr. A. Smith paid 3.5 U.S. dollars.", "It, e.g. this."]),
    ("It costs approx. five. it is so.", ["It costs approx. five. it is so."]),
    ('"Go." He went.\n\nA title\n\nMore', ['"Go."', "He went.", "A title", "More"]),
    ("我爱北京。你呢？「好！」他说。", ["我爱北京。", "你呢？", "「好！」", "他说。"]),  # noqa: RUF001
    ("वह घर गया। क्या हुआ?", ["वह घर गया।", "क्या हुआ?"]),
    ("ما اسمك؟ أنا سام.", ["ما اسمك؟", "أنا سام."]),
]


@pytest.mark.parametrize(("text", "expected"), SENTENCES)
def test_sentences(text: str, expected: list[str]) -> None:
    """Full stops of several scripts; not those of abbreviations, initials and numbers."""
    found = list(split_document(Passage("d", text), Chunking("sentences", 1)))
    assert [one.text for one in found] == expected
    pairs = [one.text for one in split_document(Passage("d", text), Chunking("sentences", 2, 1))]
    assert all(first in pairs[0] for first in expected[:2])
    assert len(pairs) == max(len(expected) - 1, 1)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of a WordPiece, a byte-level and a Unigram tokenizer."""
    folders = {}
    for name in ("bert", "roberta", "t5"):
        folders[name] = str(tmp_path_factory.mktemp(name))
        getattr(tokenizers_for_tests, name)().save_pretrained(folders[name])
    return folders


@pytest.mark.parametrize("name", ["bert", "roberta", "t5"])
def test_tokens(name: str, tokenizers: dict[str, str]) -> None:
    """No passage has more tokens than asked for, and nothing is lost, bytes of one character included."""
    text = "The 1973 oil crisis began in October,  when the members of OAPEC proclaimed it. 亚马逊河 \U0001f30a end"
    tokenizer = getattr(tokenizers_for_tests, name)()
    passages = list(split_document(Passage("d", text), Chunking("tokens", 6, 0, tokenizers[name])))
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    counts = [sum(one.start <= start < one.end for start, end in offsets if end > start) for one in passages]
    assert len(passages) > 3
    assert max(counts) <= 6
    assert min(counts[:-1]) >= 3
    assert "".join("".join(one.text for one in passages).split()) == "".join(text.split())


DOCUMENT = Passage(
    "d",
    "before\n\nTop\n\nInner\n\none two three\n\nfour\n\nLast\n\nfive",
    "T",
    sections=((8, "Top"), (13, "Top > Inner"), (41, "Last")),
)


def test_headings() -> None:
    """A passage is a section; a heading without text goes with the next; long sections are cut by words."""
    found = list(split_document(DOCUMENT, Chunking("headings")))
    assert [(one.text, one.start, one.end, one.heading) for one in found] == [
        ("before", 0, 6, ""),
        ("Top\n\nInner\n\none two three\n\nfour", 8, 39, "Top"),
        ("Last\n\nfive", 41, 51, "Last"),
    ]
    cut = list(split_document(DOCUMENT, Chunking("headings", 3, 1)))
    assert [(one.text, one.heading) for one in cut] == [
        ("before", ""),
        ("Top\n\nInner\n\none", "Top"),
        ("one two three", "Top > Inner"),
        ("three\n\nfour", "Top > Inner"),
        ("Last\n\nfive", "Last"),
    ]
    assert [one.heading for one in split_document(DOCUMENT, Chunking(size=4))] == ["", "Top > Inner", "Last"]
    (whole,) = split_document(Passage("e", "a b"), Chunking("headings"))
    assert (whole.text, whole.document, whole.start, whole.end) == ("a b", "e", 0, 3)


TEXTS = st.text(st.sampled_from("ab.!? \n。我爱กี้ाé\u3000(\"'U"), max_size=60)


@pytest.mark.parametrize("overlap", [0, 1, 4, 6])
def test_characters_of_several_tokens_are_not_lost(overlap: int, tokenizers: dict[str, str]) -> None:
    """Where a passage is cut short before such a character, and the overlap is nearly the passage."""
    text = "\ufb01ne \u2460\u2461 \uff76\uff9e 亚马逊河 end"
    found = list(split_document(Passage("d", text), Chunking("tokens", 7, overlap, tokenizers["roberta"])))
    covered = {place for one in found for place in range(one.start, one.end)}
    assert [character for place, character in enumerate(text) if place not in covered and character != " "] == []
    assert all(one.text == text[one.start : one.end] for one in found)


@given(TEXTS, st.integers(1, 6), st.integers(0, 5), st.lists(st.integers(0, 60), max_size=4))
def test_spans_are_of_the_text(text: str, size: int, overlap: int, begins: list[int]) -> None:
    """text[start:end] is the passage, in order, and the passages have every character but white space."""
    overlap = min(overlap, size - 1)
    sections = tuple((begin, str(begin)) for begin in sorted({begin for begin in begins if begin < len(text)}))
    document = Passage("d", text, sections=sections)
    for by in ("words", "sentences", "headings"):
        found = list(split_document(document, Chunking(by, size, overlap)))
        assert [one.id for one in found] == [f"d#{number}" for number in range(len(found))]
        covered: set[int] = set()
        for one in found:
            assert one.text == text[one.start : one.end]
            assert one.heading == str(max((begin for begin, _ in sections if begin <= one.start), default=""))
            covered |= set(range(one.start, one.end))
        assert [one.start for one in found] == sorted(one.start for one in found)
        assert {place for place, character in enumerate(text) if not character.isspace()} <= covered


@given(st.lists(st.text("ab \n", max_size=3), max_size=30), st.integers(1, 8), st.integers(0, 7))
def test_every_word_is_in_a_passage(pieces: list[str], size: int, overlap: int) -> None:
    """Passage i begins with word i * (size - overlap), and all but the last are full."""
    text = " ".join(pieces)
    step = size - min(overlap, size - 1)
    found = [one.text.split() for one in split_document(Passage("d", text), Chunking(size=size, overlap=size - step))]
    every = text.split()
    for i, piece in enumerate(found):
        assert piece == every[i * step : i * step + size]
    assert all(len(piece) == size for piece in found[:-1])
    assert (len(found) - 1) * step + len(found[-1]) == len(every)


@given(TEXTS)
def test_sentences_begin_within_the_text(text: str) -> None:
    """In order, each once."""
    begins = sentence_starts(text)
    assert begins == sorted(set(begins))
    assert begins[0] == 0


@pytest.mark.parametrize(
    ("chunking", "errors"),
    [
        (Chunking("pages", 3), ["chunk_by: must be one of words, tokens, sentences, headings, got 'pages'"]),
        (
            Chunking("pages", 0, -1),
            [
                "chunk_by: must be one of words, tokens, sentences, headings, got 'pages'",
                "chunk_size: must be at least 1, got 0",
            ],
        ),
        (Chunking("words"), ["chunk_size: is required with chunk_by words"]),
        (Chunking(size=0), ["chunk_size: must be at least 1, got 0"]),
        (Chunking(size=3, overlap=3), ["chunk_overlap: must be from 0 to less than chunk_size (3), got 3"]),
        (Chunking(size=3, overlap=-1), ["chunk_overlap: must be from 0 to less than chunk_size (3), got -1"]),
        (Chunking("headings", None, 2), ["chunk_overlap: needs chunk_size, got 2"]),
        (Chunking("tokens", 3), ["chunk_tokenizer: is required with chunk_by tokens"]),
        (Chunking("words", 3, 0, "t"), ["chunk_tokenizer: is ignored with chunk_by words"]),
    ],
)
def test_impossible_chunks(chunking: Chunking, errors: list[str]) -> None:
    """No passage may be empty, and nothing may fall between two."""
    assert chunking.errors() == errors
    with pytest.raises(ConfigError, match="chunk_"):
        document_splitter(chunking)


def test_a_tokenizer_that_is_not_there(tmp_path: Path) -> None:
    """It is named."""
    with pytest.raises(ConfigError, match=f"chunk_tokenizer: cannot load '{tmp_path}'"):
        document_splitter(Chunking("tokens", 3, 0, str(tmp_path)))


def test_an_index_keeps_the_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of each passage: in the index, in ctxs.jsonl, and in the manifest how it was cut."""
    corpus, out = tmp_path / "docs", tmp_path / "out"
    corpus.mkdir()
    (corpus / "a.md").write_text("# Install\n\nUse pip.\n\n## Linux\n\nTake the CUDA build. Or not.\n")
    (corpus / "b.txt").write_text("Nothing of that kind.")
    (corpus / "logo.png").write_bytes(b"\x89PNG")
    command = ["index", "--corpus", str(corpus), "--retriever", "bm25", "--output", str(tmp_path / "index")]
    assert main([*command, "--chunk-by", "sentences", "--chunk-size", "1"]) == 0
    assert "1 files of" in (told := capsys.readouterr().err)
    assert "are no documents and are ignored: 1 .png" in told
    opened = open_index(tmp_path / "index")
    assert opened.manifest.chunking == {"by": "sentences", "size": 1, "overlap": 0, "tokenizer": None}
    store = PassageStore(tmp_path / "index")
    assert [(one.id, one.heading) for one in store] == [
        ("a.md#0", "Install"),
        ("a.md#1", "Install"),
        ("a.md#2", "Install > Linux"),
        ("a.md#3", "Install > Linux"),
        ("a.md#4", "Install > Linux"),
        ("b.txt#0", ""),
    ]
    (tmp_path / "q.jsonl").write_text('{"id": "q", "question": "Which CUDA build?"}\n')
    queries = ["retrieve", "--index", str(tmp_path / "index"), "--queries", str(tmp_path / "q.jsonl")]
    assert main([*queries, "--top-k", "1", "--output", str(out)]) == 0
    (ctx,) = json.loads((out / "ctxs.jsonl").read_text())["ctxs"]
    assert (ctx["text"], ctx["document"], ctx["heading"]) == ("Take the CUDA build.", "a.md", "Install > Linux")
    assert "a.md 1 " in (out / "run.trec").read_text()


def test_options_of_chunks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Errors name the options; --passage-words is another word for words."""
    corpus = tmp_path / "c.jsonl"
    corpus.write_text('{"id": "d", "text": "oil rose far above it"}\n')
    command = ["index", "--corpus", str(corpus), "--retriever", "bm25", "--output", str(tmp_path / "index")]
    cases: list[tuple[list[str], str]] = [
        (["--chunk-size", "3"], "--chunk-size: needs chunk_by"),
        (["--chunk-by", "words"], "--chunk-size: is required"),
        (["--chunk-by", "headings"], "--chunk-by: must not be headings, which c.jsonl has none of"),
        (["--chunk-by", "words", "--chunk-size", "2", "--passage-words", "2"], "--passage-words: is ignored beside"),
    ]
    for options, error in cases:
        assert main([*command, *options]) == 2
        assert error in capsys.readouterr().err
    old = build_index(corpus, tmp_path / "old", BM25Settings("bm25s"), passage_words=3, passage_stride=2)
    new = build_index(corpus, tmp_path / "new", BM25Settings("bm25s"), chunking=Chunking(size=3, overlap=1))
    assert (old.sha256, old.n_passages) == (new.sha256, 2)


def test_chunks_of_other_kinds_are_not_searched_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two indexes of one corpus must be split alike."""
    corpus: Any = tmp_path / "c.jsonl"
    corpus.write_text('{"id": "d", "text": "Oil rose. Gold fell."}\n')
    build_index(corpus, tmp_path / "one", BM25Settings(), chunking=Chunking("sentences", 1))
    build_index(corpus, tmp_path / "two", BM25Settings(), chunking=Chunking("words", 3))
    queries = tmp_path / "q.jsonl"
    queries.write_text('{"id": "q", "question": "oil"}\n')
    indexes = ["--index", str(tmp_path / "one"), "--index", str(tmp_path / "two")]
    assert main(["retrieve", *indexes, "--queries", str(queries), "--output", str(tmp_path / "out")]) == 2
    assert "index the same corpus alike" in capsys.readouterr().err
