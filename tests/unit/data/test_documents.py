"""Corpora as people have them: documents of every kind and folders of them, and the public's files of passages."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_hub_rqa.data.corpus import CorpusReader
from model_hub_rqa.data.documents import read_document
from model_hub_rqa.data.formats.fid import read_fusion
from model_hub_rqa.errors import ConfigError, DataError
from model_hub_rqa.records import Passage

MARKDOWN = """\
---
title: "The Guide"
---
Intro with `code`, a [link](http://x.y) and ![a cat](cat.png).

Install
=======

Use *pip*,
twice.

### On Linux

- one
- two **bold**

```python
x = 1  # not a heading
```

| a | b |
|---|---|
| 1 | 2 |

<div>raw <b>html</b></div>
"""
RST = """\
=======
 Title
=======

Intro with ``code`` and `a link <http://x.y>`_ and :ref:`unknown`.

Install
-------

Use pip::

    pip install x

.. note:: Take care.

.. automodule:: not.docutils
   :members:

.. a comment

====  ====
a     b
====  ====
1     2
====  ====

Deep
~~~~

* one
* two
"""
HTML = """\
<!DOCTYPE html><html><head><title>The  Page</title><style>p {color: red}</style></head>
<body><script>var x = "<p>no</p>";</script><!-- hidden --><nav>Home</nav>
<h1>Top &amp; more</h1><p>One <b>bold</b>
line.<br>Next</p><h2>Sub</h2><ul><li>a</li><li>b</li></ul><pre>x
  y</pre><table><tr><td>1</td><td>2</td></tr></table></body></html>
"""


def pdf(*pages: str, title: str = "") -> bytes:
    """A PDF of one line of Helvetica a page, written by hand."""
    kids = " ".join(f"{3 + 2 * number} 0 R" for number in range(len(pages)))
    objects = ["<</Type/Catalog/Pages 2 0 R>>", f"<</Type/Pages/Kids[{kids}]/Count {len(pages)}>>"]
    font = "<</Font<</F1<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>>>"
    for number, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET" if text else ""
        page = f"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Resources{font}/Contents {4 + 2 * number} 0 R>>"
        objects += [page, f"<</Length {len(stream)}>>stream\n{stream}\nendstream"]
    objects.append(f"<</Title({title})>>")
    body, offsets = "%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        offsets.append(len(body))
        body += f"{number} 0 obj{content}endobj\n"
    entries = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    table = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{entries}"
    trailer = f"trailer<</Size {len(objects) + 1}/Root 1 0 R/Info {len(objects)} 0 R>>"
    return f"{body}{table}{trailer}\nstartxref\n{len(body)}\n%%EOF".encode()


DOCUMENTS = [
    ("a.txt", b"Line one\n\nLine two\n", "a", ["Line one\n\nLine two"], []),
    (
        "a.md",
        MARKDOWN.encode(),
        "The Guide",
        [
            "Intro with code, a link and a cat.",
            *("Install", "Use pip,\ntwice.", "On Linux", "one", "two bold", "x = 1  # not a heading", "a | b", "1 | 2"),
            "raw html",
        ],
        ["Install", "Install > On Linux"],
    ),
    (
        "a.rst",
        RST.encode(),
        "Title",
        [
            *("Title", "Intro with code and a link and :ref:`unknown`.", "Install", "Use pip:", "pip install x"),
            *("Take care.", ".. automodule:: not.docutils\n   :members:", "a | b", "1 | 2", "Deep", "one", "two"),
        ],
        ["Title", "Title > Install", "Title > Install > Deep"],
    ),
    (
        "a.html",
        HTML.encode(),
        "The Page",
        ["Home", "Top & more", "One bold line.\nNext", "Sub", "a", "b", "x\n  y", "1 2"],
        ["Top & more", "Top & more > Sub"],
    ),
    ("a.pdf", pdf("The oil rose.", "And fell.", title="Oil"), "Oil", ["The oil rose.", "And fell."], []),
    ("b.pdf", pdf("", "Only here."), "b", ["Only here."], []),
    ("b.md", b"---\r\ntitle: T\r\n---\r\n# Top\r\n\r\none\r\ntwo\r\n", "T", ["Top", "one\ntwo"], ["Top"]),
    ("c.md", b"---\ntitle: T\n...\ntext", "T", ["text"], []),
    (
        "d.md",
        b"A\n\n<script>\nx;\n\ny;\n</script>\n\n<style>p {}</style>\n\n<p>a &amp; b&hellip;</p>\n\nC <b>&lt;d</b>\n",
        "d",
        ["A", "a & b\u2026", "C <d"],
        [],
    ),
    (
        "b.rst",
        b"Longer title\n=====\n\ntext\n\nNext title\n-----\n\nmore",
        "Longer title",
        ["Longer title", "text", "Next title", "more"],
        ["Longer title", "Longer title > Next title"],
    ),
    ("b.html", "<meta charset=gb2312><p>\u4e2d\u6587".encode("gb2312"), "b", ["\u4e2d\u6587"], []),
    ("c.html", "<meta charset=iso-8859-1><p>\u201ccaf\xe9\u201d".encode("cp1252"), "c", ["\u201ccaf\xe9\u201d"], []),
    ("d.html", "<p>caf\xe9".encode("utf-16"), "d", ["caf\xe9"], []),
    ("e.html", "<meta charset=utf-16><p>caf\xe9".encode(), "e", ["caf\xe9"], []),
    ("f.html", "<meta charset=ascii><p>caf\xe9".encode(), "f", ["caf\xe9"], []),
    ("g.html", "<meta charset=nonsense><p>caf\xe9".encode(), "g", ["caf\xe9"], []),
    (
        "h.html",
        b"<title>T</title><svg><title>icon</title></svg><h1>Top<br>most</h1>x<select><option>1<option>2</select>"
        b"<textarea>y</textarea><noscript>z</noscript>",
        "T",
        ["Top most", "x", "1", "2", "y", "z"],
        ["Top most"],
    ),
    ("i.html", b"<svg><title>icon</title></svg><h2>Top</h2>x", "Top", ["Top", "x"], ["Top"]),
]


@pytest.mark.parametrize(("name", "content", "title", "blocks", "headings"), DOCUMENTS)
def test_a_document(
    name: str, content: bytes, title: str, blocks: list[str], headings: list[str], tmp_path: Path
) -> None:
    """Its text in blocks, all of it, and each section where its heading is."""
    (tmp_path / name).write_bytes(content)
    document = read_document(tmp_path / name, name)
    assert (document.id, document.title, document.text.split("\n\n")) == (
        name,
        title,
        "\n\n".join(blocks).split("\n\n"),
    )
    assert [heading for _, heading in document.sections] == headings
    for begin, heading in document.sections:
        assert document.text[begin:].startswith(heading.rpartition(" > ")[2])
    (found,) = CorpusReader(tmp_path / name)
    assert found == document


def test_pages_without_text_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What a scan among them says is not in the corpus."""
    (tmp_path / "a.pdf").write_bytes(pdf("Oil.", "", "Gold.", ""))
    read_document(tmp_path / "a.pdf", "a.pdf")
    assert "a.pdf: 2 of 4 pages have no text, the first is 2" in caplog.text


@pytest.mark.parametrize("password", ["", "secret"])
def test_an_encrypted_pdf(password: str, tmp_path: Path) -> None:
    """Without a password to read it, it is read; else the message says what it is."""
    import pypdf

    (tmp_path / "plain.pdf").write_bytes(pdf("Oil rose."))
    writer = pypdf.PdfWriter(clone_from=tmp_path / "plain.pdf")
    writer.encrypt(password, "owner", algorithm="RC4-128")
    writer.write(tmp_path / "a.pdf")
    if password:
        with pytest.raises(DataError, match=r"a\.pdf: is encrypted: must be readable without a password$"):
            read_document(tmp_path / "a.pdf", "a.pdf")
    else:
        assert read_document(tmp_path / "a.pdf", "a.pdf").text == "Oil rose."


def test_bookmarks_of_a_pdf(tmp_path: Path) -> None:
    """They are its headings, each where its words are on its page."""
    import pypdf

    (tmp_path / "plain.pdf").write_bytes(pdf("First part. Oil rose.", "Second part. It fell."))
    writer = pypdf.PdfWriter(clone_from=tmp_path / "plain.pdf")
    above = writer.add_outline_item(title="First part", page_number=0)
    writer.add_outline_item(title="It fell", page_number=1, parent=above)
    writer.write(tmp_path / "a.pdf")
    document = read_document(tmp_path / "a.pdf", "a.pdf")
    assert document.sections == ((0, "First part"), (document.text.index("It fell"), "First part > It fell"))


def test_a_folder(tmp_path: Path) -> None:
    """All documents below it, by their names; what begins with a dot is passed over."""
    for name in ("b/c.md", "a.txt", ".git/x.txt", "b/d.PDF"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(pdf("Oil.") if name.endswith("PDF") else b"Oil.")
    reader = CorpusReader(tmp_path)
    assert [(document.id, document.text) for document in reader] == [
        ("a.txt", "Oil."),
        ("b/c.md", "Oil."),
        ("b/d.PDF", "Oil."),
    ]
    assert (reader.n_documents, len(reader.sha256)) == (3, 64)


BAD = [
    ("a.pdf", pdf("", ""), "a.pdf: must have text, got 2 pages without"),
    ("a.pdf", b"not a pdf", "a.pdf: cannot be read as PDF: "),
    ("a.pdf", b"", "a.pdf: cannot be read as PDF: "),
    ("a.txt", b"\xff\xfeo\x00", "a.txt: must be UTF-8, got UTF-16"),
    ("a.txt", b" \n", "a.txt: empty file"),
    ("a.md", b"caf\xe9", "a.md: must be UTF-8, got byte 0xe9"),
    (
        "a.html",
        b"<p>caf\xe9</p>",
        "a.html: must be in the encoding that it names, or in UTF-8: got byte 0xe9 at byte offset 6",
    ),
    (
        "a.html",
        b"<meta charset=utf-8><p>caf\xe9</p>",
        "a.html: must be in the encoding that it names, or in UTF-8: got byte 0xe9",
    ),
    (
        "a.html",
        "<p>a".encode("utf-16-le"),
        "a.html: must be in the encoding that it names, or in UTF-8: got a zero byte",
    ),
    ("a.html", b"<p></p>", "a.html: must have text, got none"),
    ("a.rst", b".. a comment\n", "a.rst: must have text, got none"),
]


@pytest.mark.parametrize(("name", "content", "error"), BAD)
def test_a_bad_document(name: str, content: bytes, error: str, tmp_path: Path) -> None:
    """It is named, all of a folder at once; "skip" leaves it out and says so."""
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes(content)
    (tmp_path / "good.txt").write_text("Oil.")
    with pytest.raises(DataError, match=error) as raised:
        list(CorpusReader(tmp_path))
    assert len(raised.value.errors) == 2
    reader = CorpusReader(tmp_path, on_bad_record="skip")
    assert [document.id for document in reader] == ["good.txt"]
    assert len(reader.skipped) == 2


def test_a_folder_without_documents(tmp_path: Path) -> None:
    """It says which files are."""
    (tmp_path / "x.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"must hold documents \(.txt, .md, .rst, .html, .htm, .pdf\), got .png"):
        list(CorpusReader(tmp_path))


def test_a_missing_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named with the extra that brings it, before anything is read."""
    monkeypatch.setitem(__import__("sys").modules, "pypdf", None)
    (tmp_path / "a.pdf").write_bytes(pdf("Oil."))
    with pytest.raises((ConfigError, DataError), match=r"pypdf: .* pip install 'model-hub-rqa\[documents\]'"):
        list(CorpusReader(tmp_path))


@given(st.lists(st.text("ab #*`<>&|-=1.\n", max_size=30), max_size=6))
def test_no_word_of_a_text_is_lost(parts: list[str]) -> None:
    """Whatever stands in a Markdown file, its letters and digits come out."""
    from tempfile import TemporaryDirectory

    source = "\n\n".join(parts)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.md"
        path.write_text(f"start\n\n{source}\n", encoding="utf-8")
        text = read_document(path, "a.md").text
    if "<" not in source and "&" not in source and "1." not in source:
        kept = [character for character in source if character in "ab1"]
        assert [character for character in text.removeprefix("start") if character in "ab1"] == kept


# ---- the public's files of passages ----


def test_json_lists(tmp_path: Path) -> None:
    """By themselves, under "data", or by their ids."""
    records = [{"_id": "a", "title": "T", "text": "x"}, {"_id": "b", "text": "y"}]
    for content in (records, {"data": records}, {"a": {"title": "T", "text": "x"}, "b": {"text": "y"}}):
        (tmp_path / "c.json").write_text(json.dumps(content))
        assert list(CorpusReader(tmp_path / "c.json")) == [Passage("a", "x", "T"), Passage("b", "y")]


def test_a_title_alone(tmp_path: Path) -> None:
    """BEIR has documents without text; one without title as well stays an error. A reader takes them too."""
    path = tmp_path / "c.jsonl"
    path.write_text('{"_id": "a", "title": "T", "text": ""}\n{"_id": "b", "title": "U"}\n')
    assert list(CorpusReader(path)) == [Passage("a", "", "T"), Passage("b", "", "U")]
    path.write_text('{"_id": "a", "title": "T", "text": ""}\n{"_id": "b", "title": " ", "text": ""}\n')
    with pytest.raises(DataError, match=r"record b \(line 2\): text must not be blank, got ''$"):
        list(CorpusReader(path))
    path.write_text(json.dumps({"question": "q", "answers": ["x"], "ctxs": [{"title": "T", "text": ""}]}))
    assert read_fusion(path).rows[0]["passages"][0]["text"] == ""


def test_psgs_w100(tmp_path: Path) -> None:
    """DPR's Wikipedia: a header, and texts in quotes; also compressed."""
    table = 'id\ttext\ttitle\n1\t"Aaron ( or ; ""Ahärôn"") is\ta prophet."\tAaron\n2\tHe went.\t"""Heroes"" (album)"\n'
    (tmp_path / "psgs_w100.tsv.gz").write_bytes(gzip.compress(table.encode()))
    assert list(CorpusReader(tmp_path / "psgs_w100.tsv.gz")) == [
        Passage("1", 'Aaron ( or ; "Ahärôn") is\ta prophet.', "Aaron"),
        Passage("2", "He went.", '"Heroes" (album)'),
    ]


def test_collection_of_ms_marco(tmp_path: Path) -> None:
    """Ids and passages without a header; quotes are only quotes."""
    path = tmp_path / "collection.tsv"
    path.write_text('0\t"The presence" of it.\n1\tAn "odd one\n')
    assert list(CorpusReader(path)) == [Passage("0", '"The presence" of it.'), Passage("1", 'An "odd one')]
    path.write_bytes(b"0\ttext\r\n1\tcaf\xe9\r\n2\tone\rtwo\r\n\r\n3\tz")  # a first passage that looks like a header
    reader = CorpusReader(path, on_bad_record="skip")
    assert list(reader) == [Passage("0", "text"), Passage("2", "one\rtwo"), Passage("3", "z")]
    assert reader.skipped == (f"{path}: line 2: must be UTF-8, got byte 0xe9 at byte 6",)
    path.write_text("0\tx\n1\ty\tz\n")
    with pytest.raises(DataError, match=r"line 2: must have 2 fields \(id, text\), got 3"):
        list(CorpusReader(path))
    path.write_text("docid\tbody\nD1\tx\n")
    with pytest.raises(DataError, match='the header misses the column "text"'):
        list(CorpusReader(path))


def test_contents_of_pyserini(tmp_path: Path) -> None:
    """The first line of several is the title, in FlashRAG's files in quotes."""
    path = tmp_path / "c.jsonl"
    lines = [{"id": 1, "contents": '"Ed Wood"\r\nA film.\nLong.'}, {"id": 2, "contents": "Doc\nA film."}]
    lines += [{"id": 3, "contents": "Only text."}, {"id": 4, "title": "T", "contents": "one\ntwo"}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert list(CorpusReader(path)) == [
        Passage("1", "A film.\nLong.", "Ed Wood"),
        Passage("2", "A film.", "Doc"),
        Passage("3", "Only text."),
        Passage("4", "one\ntwo", "T"),
    ]
