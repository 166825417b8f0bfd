"""Splits documents into passages: by words, tokens, sentences or headings, with overlap, each with its source."""

import bisect
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from model_hub_rqa.errors import ConfigError
from model_hub_rqa.records import Passage

UNITS = ("words", "tokens", "sentences", "headings")

# Scripts that are written without spaces: Thai to Tibetan, Myanmar, Khmer, kana, Han.
_UNSPACED = "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
_UNSPACED += "\uf900-\ufaff\U00020000-\U0003ffff"
# RUF001 takes punctuation of other scripts for a slip: here it is meant.
_CLOSING = "、。，．：；！？…」』）》】〉〕”’々ー"  # noqa: RUF001 - goes with the character before
_WORD = re.compile(rf"[{_UNSPACED}][{_CLOSING}]*|[^\s{_UNSPACED}]+")
_SENTENCE_END = re.compile(
    r"[.!?…]+[\"'”’»)\]]*(?=\s)"  # noqa: RUF001 - needs a blank after it
    r"|[。！？｡．؟۔।॥]+[」』”’》）\])\"']*"  # noqa: RUF001 - does not
    r"|\n[^\S\n]*\n"
)
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\"'“])(?:\w|Mr|Mrs|Ms|Dr|Prof|Sr|Jr|St|Mt|Gen|Col|Sen|Rep|Gov|Capt|No|Fig|Eq|vs|cf|al|e\.g|i\.e|approx)\.$"
)


@dataclass(frozen=True)
class Chunking:
    """How documents are split.

    Attributes:
        by: words (runs of characters without white space; each character of scripts that are written without spaces),
            tokens of ``tokenizer``, sentences, or headings: a section each.
        size: units of a passage; of headings, words of the longest passage, None for whole sections.
        overlap: units that a passage has in common with the one before.
        tokenizer: the folder or the name on the hub of a fast tokenizer.
    """

    by: str = "words"
    size: int | None = None
    overlap: int = 0
    tokenizer: str | None = None

    def errors(self) -> list[str]:
        """A line for each field that breaks a rule."""
        known = self.by in UNITS
        errors = [] if known else [f"chunk_by: must be one of {', '.join(UNITS)}, got {self.by!r}"]
        if self.size is None and known and self.by != "headings":
            errors.append(f"chunk_size: is required with chunk_by {self.by}")
        if self.size is None and self.overlap:
            errors.append(f"chunk_overlap: needs chunk_size, got {self.overlap}")
        if self.size is not None and self.size < 1:
            errors.append(f"chunk_size: must be at least 1, got {self.size}")
        elif self.size is not None and not 0 <= self.overlap < self.size:
            errors.append(f"chunk_overlap: must be from 0 to less than chunk_size ({self.size}), got {self.overlap}")
        if self.by == "tokens" and not self.tokenizer:
            errors.append("chunk_tokenizer: is required with chunk_by tokens")
        if known and self.by != "tokens" and self.tokenizer:
            errors.append(f"chunk_tokenizer: is ignored with chunk_by {self.by}")
        return errors


def document_splitter(chunking: Chunking) -> Callable[[Passage], Iterator[Passage]]:
    """What splits a document into passages as :func:`split_document` does; loads the tokenizer once.

    Raises:
        ConfigError: a field breaks a rule, or the tokenizer cannot be loaded.
    """
    if errors := chunking.errors():
        raise ConfigError(errors)
    if chunking.by == "tokens":
        starts: Callable[[str], list[int]] = _token_starts(str(chunking.tokenizer))
    else:
        starts = sentence_starts if chunking.by == "sentences" else word_starts
    return lambda document: _split(document, chunking, starts)


def split_document(document: Passage, chunking: Chunking) -> Iterator[Passage]:
    """The document in passages, each with the document's title.

    Passage i, counted from 0, has the id ``DOC#i``. Its text is the document's own, ``text[start:end]``, without outer
    white space; together the passages have all of the text but white space. The last one ends with the document and may
    be shorter. A document without text is one passage.

    Raises:
        ConfigError: as :func:`document_splitter`.
    """
    return document_splitter(chunking)(document)


def _split(document: Passage, chunking: Chunking, starts: Callable[[str], list[int]]) -> Iterator[Passage]:
    text = document.text
    sections = _sections(document) if chunking.by == "headings" else [(0, len(text))]
    begins = [begin for begin, _ in document.sections]
    spans = [
        (first + start, first + end)
        for first, last in sections
        for start, end in _spans(text[first:last], chunking.size, chunking.overlap, starts)
    ]
    for number, (start, end) in enumerate(spans or [(0, len(text))]):
        inside = bisect.bisect_right(begins, start)
        yield Passage(
            f"{document.id}#{number}",
            text[start:end],
            document.title,
            document=document.id,
            start=start,
            end=end,
            heading=document.sections[inside - 1][1] if inside else "",
        )


def _sections(document: Passage) -> list[tuple[int, int]]:
    """Where sections begin and end; one of a heading alone goes with the next."""
    text = document.text
    begins = sorted({0, *(begin for begin, _ in document.sections), len(text)})
    headed = {begin for begin, _ in document.sections}
    joined: list[tuple[int, int]] = []
    begin = 0
    for end in begins[1:]:
        bare = "\n" not in text[begin:end].strip() and begin in headed
        if not bare or end == len(text):
            joined.append((begin, end))
            begin = end
    return joined


def _spans(text: str, size: int | None, overlap: int, starts: Callable[[str], list[int]]) -> Iterator[tuple[int, int]]:
    """First and last character of each passage of a text."""
    begins = [0] if size is None else starts(text) or [0]
    size = len(begins) if size is None else size
    begins[0] = 0  # what no unit has, as a tokenizer may drop, goes with the first
    count, first = len(begins), 0
    begins.append(len(text))
    while first < count:
        last = min(first + size, count)
        # Bytes of one character are several tokens: they stay together.
        last = _whole(begins, last, first) if last < count else count
        inside = text[begins[first] : begins[last]]
        if stripped := inside.strip():
            start = begins[first] + len(inside) - len(inside.lstrip())
            yield start, start + len(stripped)
        first = count if last == count else max(_whole(begins, max(last - overlap, 0), first), first + 1)


def _whole(begins: list[int], unit: int, above: int) -> int:
    """The first unit that begins where ``unit`` does; the one after it, where that is not above ``above``."""
    first = bisect.bisect_left(begins, begins[unit])
    return first if first > above else bisect.bisect_right(begins, begins[unit])


def word_starts(text: str) -> list[int]:
    """Where words begin; each character of scripts that are written without spaces is one, with its marks."""
    begins = [match.start() for match in _WORD.finditer(text)]
    return begins if text.isascii() else [one for one in begins if not unicodedata.category(text[one]).startswith("M")]


def sentence_starts(text: str) -> list[int]:
    """Where sentences begin: after a full stop with white space, after those of Chinese, Japanese, Hindi and Arabic
    without, and after a blank line. One before a small letter, or after an abbreviation or an initial, ends nothing."""
    begins, last = [0], len(text.rstrip())
    for match in _SENTENCE_END.finditer(text):
        rest = text[match.end() : match.end() + 200].lstrip()
        stop = match[0].startswith(".")
        if stop and (rest[:1].islower() or _ABBREVIATION.search(text[max(match.start() - 10, 0) : match.start() + 1])):
            continue
        if text[begins[-1] : match.end()].strip() and match.end() < last:
            begins.append(match.end())
    return begins


def _token_starts(name: str) -> Callable[[str], list[int]]:
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, ImportError, KeyError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(f"chunk_tokenizer: cannot load {name!r}: {reason}") from error
    if not tokenizer.is_fast:
        raise ConfigError(f"chunk_tokenizer: must be a fast tokenizer, which tells where tokens are, got {name!r}")

    def starts(text: str) -> list[int]:
        made = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, truncation=False, verbose=False)
        return [start for start, end in made["offset_mapping"] if end > start]

    return starts
