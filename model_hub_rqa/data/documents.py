"""Documents as people have them: text, Markdown, reStructuredText, HTML and PDF, as plain text with their headings."""

import contextlib
import html
import io
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from model_hub_rqa.data.text_files import UTF8_MARK, read_text
from model_hub_rqa.errors import DataError
from model_hub_rqa.libraries import require
from model_hub_rqa.records import Passage

logger = logging.getLogger(__name__)

_SKIPPED = {"script", "style", "template", "head", "title"}
_BLOCKS = {
    *("address", "article", "aside", "blockquote", "body", "caption", "dd", "details", "dialog", "div", "dl", "dt"),
    *("fieldset", "figcaption", "figure", "footer", "form", "header", "hr", "html", "li", "main", "nav", "ol", "p"),
    *("noscript", "optgroup", "option", "pre", "section", "select", "summary", "svg", "table", "tbody", "textarea"),
    *("tfoot", "thead", "tr", "ul"),
}
# What pages name in place of the encoding that browsers, and their authors, mean by it.
_ENCODINGS = {"iso-8859-1": "cp1252", "latin1": "cp1252", "gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932"}
_ENCODINGS |= {"euc-kr": "cp949", "ks_c_5601-1987": "cp949", "utf-16": "utf-8"}
_FRONT_MATTER = re.compile(r"---[^\S\n]*\n(.*?)^(?:---|\.\.\.)[^\S\n]*$\n?", re.DOTALL | re.MULTILINE)
_TAGS = re.compile(r"<!--.*?-->|<(script|style|template)\b.*?</\1\s*>|<[^>]*>", re.DOTALL | re.IGNORECASE)


class _Text:
    """A document's text, gathered block by block, and where its sections begin."""

    def __init__(self) -> None:
        self._blocks: list[str] = []
        self._length = 0
        self._path: list[tuple[int, str]] = []
        self.sections: list[tuple[int, str]] = []

    def block(self, text: str) -> None:
        text = text.strip("\n").rstrip()
        if text.strip():
            self._blocks.append(text)
            self._length += len(text) + 2

    def heading(self, level: int, text: str, *, start: int | None = None) -> None:
        """Begins a section; ``start`` where its heading is in the text already, else it is added."""
        text = " ".join(text.split())
        if text:
            self._path = [(above, name) for above, name in self._path if above < level] + [(level, text)]
            begin = self._length if start is None else start
            self.sections.append((begin, " > ".join(name for _, name in self._path)))
            if start is None:
                self.block(text)

    @property
    def length(self) -> int:
        return self._length

    def whole(self) -> str:
        """All blocks, with a blank line between."""
        return "\n\n".join(self._blocks)

    def document(self, id_: str, title: str) -> Passage:
        first = self.sections[0][1] if self.sections else Path(id_).name.split(".")[0]
        sections = tuple(sorted(self.sections, key=lambda one: one[0]))
        return Passage(id_, self.whole(), " ".join(title.split()) or first, sections=sections)


def _plain(path: Path, id_: str) -> Passage:
    text = _Text()
    text.block(read_text(path))
    return text.document(id_, "")


def _markdown(path: Path, id_: str) -> Passage:
    source = re.sub(r"\r\n?", "\n", read_text(path))
    front = _FRONT_MATTER.match(source)  # YAML, which Markdown would take for a heading
    title = re.search(r"^title:\s*(.*)$", front[1], re.MULTILINE) if front else None
    tokens = (
        require("markdown_it").MarkdownIt("commonmark").enable("table").parse(source[front.end() if front else 0 :])
    )
    text = _Text()
    row: list[str] | None = None
    level = 0
    for token in tokens:
        if token.type in ("heading_open", "tr_open"):
            level, row = (int(token.tag[1]), None) if token.type == "heading_open" else (0, [])
        elif token.type == "inline" and level:
            text.heading(level, _inline(token.children or ()))
            level = 0
        elif token.type == "inline" and row is not None:
            row.append(_inline(token.children or ()))
        elif token.type == "tr_close":
            text.block(" | ".join(row or ()))
            row = None
        elif token.type == "inline":
            text.block(_inline(token.children or ()))
        elif token.type in ("fence", "code_block"):
            text.block(token.content)
        elif token.type == "html_block":
            text.block(_strip_tags(token.content))
    return text.document(id_, title[1].strip("'\"") if title else "")


def _inline(children: Any) -> str:
    """The text of Markdown's inline tokens, that of images their description."""
    parts = []
    for token in children:
        if token.type == "html_inline":
            parts.append(_strip_tags(token.content))
        elif token.type in ("softbreak", "hardbreak"):
            parts.append("\n")
        else:
            parts.append(_inline(token.children) if token.children else token.content)
    return "".join(parts)


def _strip_tags(source: str) -> str:
    return html.unescape(_TAGS.sub("", source))


def _restructured(path: Path, id_: str) -> Passage:
    require("docutils")
    import docutils.core as core
    import docutils.nodes as nodes

    quiet = {"report_level": 1, "halt_level": 5, "warning_stream": io.StringIO(), "file_insertion_enabled": False}
    quiet |= {"raw_enabled": False, "doctitle_xform": False, "input_encoding": "unicode", "_disable_config": True}
    tree = core.publish_doctree(read_text(path), settings_overrides=quiet)
    text = _Text()

    def walk(node: Any, depth: int) -> None:
        for child in node.children:
            if isinstance(child, nodes.section):
                walk(child, depth + 1)
            elif isinstance(child, nodes.title) and isinstance(node, nodes.section):
                text.heading(depth, child.astext())
            elif isinstance(child, nodes.system_message):  # a directive that is not docutils' own: its source
                for source in child.findall(nodes.literal_block):
                    if child["level"] > 2 or source.astext().startswith(".."):  # not that of a title, which is read
                        text.block(source.astext())
            elif isinstance(child, nodes.comment | nodes.substitution_definition | nodes.target):
                continue
            elif isinstance(child, nodes.image):
                text.block(child.get("alt", ""))
            elif isinstance(child, nodes.row):
                text.block(" | ".join(" ".join(entry.astext().split()) for entry in child.children))
            elif isinstance(child, nodes.TextElement):
                text.block(child.astext())
            else:
                walk(child, depth)

    walk(tree, 0)
    return text.document(id_, "")


def _html(path: Path, id_: str) -> Passage:
    bs4 = require("bs4")
    soup = bs4.BeautifulSoup(_html_source(path), "html.parser")
    text = _Text()
    line: list[str] = []

    def flush(keep: bool = False) -> None:
        joined = "".join(line)
        text.block(joined if keep else "\n".join(" ".join(part.split()) for part in joined.split("\0")))
        line.clear()

    def walk(node: Any, pre: bool) -> None:
        for child in node.children:
            if isinstance(child, bs4.NavigableString):
                if type(child) is bs4.NavigableString or isinstance(child, bs4.CData):
                    line.append(str(child))
            elif child.name in _SKIPPED:
                continue
            elif re.fullmatch("h[1-6]", child.name):
                flush(pre)
                for line_end in child.find_all("br"):
                    line_end.replace_with(" ")
                text.heading(int(child.name[1]), child.get_text())
            elif child.name in _BLOCKS:
                flush(pre)
                walk(child, pre or child.name == "pre")
                flush(pre or child.name == "pre")
            elif child.name == "br":
                line.append("\n" if pre else "\0")
            else:
                walk(child, pre)
                line.append(" " if child.name in ("td", "th") else "")

    walk(soup, False)
    flush()
    title = next((one.get_text() for one in soup.find_all("title") if one.find_parent("svg") is None), "")
    return text.document(id_, title)


def _html_source(path: Path) -> str:
    """A page in the encoding of its byte order mark, or that it names, or in UTF-8; nothing is guessed."""
    raw = path.read_bytes()
    declared = require("bs4").dammit.EncodingDetector.find_declared_encoding(raw, is_html=True) or "utf-8"
    marks = (("utf-8-sig", UTF8_MARK), ("utf-16", b"\xff\xfe"), ("utf-16", b"\xfe\xff"))
    marked = [name for name, mark in marks if raw.startswith(mark)]
    for name in (*marked, _ENCODINGS.get(declared.lower(), declared), "utf-8"):
        with contextlib.suppress(LookupError, UnicodeDecodeError):
            if "\0" not in (text := raw.decode(name)):
                return text
    rule = f"{path}: must be in the encoding that it names, or in UTF-8"
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{rule}: got byte 0x{raw[error.start]:02x} at byte offset {error.start}") from error
    raise DataError(f"{rule}: got a zero byte at byte offset {raw.index(0)}")


def _pdf(path: Path, id_: str) -> Passage:
    pypdf = require("pypdf")
    text = _Text()
    try:
        reader = pypdf.PdfReader(path)
        starts, bare = [], []
        for number, page in enumerate(reader.pages, 1):
            starts.append(text.length)
            text.block(page.extract_text())
            bare += [number] if text.length == starts[-1] else []
        pages = text.whole()
        for level, title, page in _outline(reader, reader.outline, 1):
            found = pages.find(title, starts[page])
            text.heading(level, title, start=found if found >= 0 else starts[page])
        title = (reader.metadata.title if reader.metadata else None) or ""
    except pypdf.errors.FileNotDecryptedError as error:
        raise DataError(f"{path}: is encrypted: must be readable without a password") from error
    except Exception as error:  # pypdf raises whatever a damaged file leads to
        raise DataError(f"{path}: cannot be read as PDF: {type(error).__name__}: {error}") from error
    if not pages.strip():
        raise DataError(f"{path}: must have text, got {len(starts)} pages without (a scan needs OCR first)")
    if bare:
        logger.warning("%s: %d of %d pages have no text, the first is %d", path, len(bare), len(starts), bare[0])
    return text.document(id_, title)


def _outline(reader: Any, entries: Any, level: int) -> Iterator[tuple[int, str, int]]:
    """Level, title and page of each bookmark."""
    for entry in entries:
        if isinstance(entry, list):
            yield from _outline(reader, entry, level + 1)
        elif (page := reader.get_destination_page_number(entry)) is not None and page >= 0:
            yield level, str(entry.title), page


_READERS: dict[str, tuple[Callable[[Path, str], Passage], str]] = {
    ".txt": (_plain, ""),
    ".md": (_markdown, "markdown_it"),
    ".rst": (_restructured, "docutils"),
    ".html": (_html, "bs4"),
    ".htm": (_html, "bs4"),
    ".pdf": (_pdf, "pypdf"),
}
DOCUMENT_ENDINGS = tuple(_READERS)


def holds_documents(path: Path) -> bool:
    """Whether a path is a document, or a folder of documents."""
    return path.is_dir() or (path.is_file() and path.suffix.lower() in _READERS)


def document_files(path: Path) -> tuple[list[Path], Counter[str]]:
    """The documents of a folder and those below, or the file itself; and how many files of other kinds there are.

    Files and folders whose name begins with a dot are passed over.
    """
    if not path.is_dir():
        return [path], Counter()
    below = (file for file in path.rglob("*") if file.is_file())
    seen = sorted(file for file in below if not any(part.startswith(".") for part in file.relative_to(path).parts))
    documents = [file for file in seen if file.suffix.lower() in _READERS]
    return documents, Counter(file.suffix.lower() for file in seen if file.suffix.lower() not in _READERS)


def document_libraries(files: list[Path]) -> list[str]:
    """The optional libraries that reading documents needs."""
    endings = {file.suffix.lower() for file in files}
    return sorted({_READERS[ending][1] for ending in endings if _READERS.get(ending, ("", ""))[1]})


def read_document(path: Path, id_: str) -> Passage:
    """A document as plain text; headings stand on lines of their own and begin its sections.

    Raises:
        DataError: the file cannot be read, or has no text.
    """
    try:
        document = _READERS[path.suffix.lower()][0](path, id_)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not document.text.strip():
        raise DataError(f"{path}: must have text, got none")
    return document
