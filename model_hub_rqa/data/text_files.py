"""Text and JSON out of a file, strictly: what is not UTF-8, not JSON, or cut short is named with its location."""

import collections
import contextlib
import gc
import gzip
import json
import re
import reprlib
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from model_hub_rqa.errors import DataError

# A location in a file, for example ("line", 7) or ("article", 1, "paragraph", 2); everything is counted from 1.
Location = tuple[str | int, ...]

# The longer mark first: UTF-32's begins with UTF-16's.
_FOREIGN_MARKS = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
UTF8_MARK = b"\xef\xbb\xbf"
_STRING_OR_CONSTANT = re.compile(r'"(?:[^"\\]|\\.)*"|(NaN|-?Infinity)')
_LIST_BEGINS = re.compile(rb"\s*\[\s*(\{|$)")  # of records

_shortener = reprlib.Repr()
_shortener.maxstring = _shortener.maxother = _shortener.maxlong = 60


class Unreadable(str):
    """Stands in a record (or for a whole one) where a reader found an error: the text is the error.

    Attributes:
        records: how many records it stands for.
    """

    records = 1


@contextlib.contextmanager
def garbage_later() -> Iterator[None]:
    """Reads a file without looking for garbage: what is read stays, and looking through it takes half of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def where(location: Location) -> str:
    """``("line", 7)`` as "line 7"."""
    return " ".join(map(str, location))


def short(value: Any) -> str:
    """A value as it may stand in a message: one line, at most some 60 characters."""
    return _shortener.repr(value)


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark; a name that ends in .gz is unpacked.

    Raises:
        DataError: the file is missing, empty, damaged, cut short, or in another encoding (the byte offset is that of
            the unpacked file).
    """
    with open_bytes(path) as file:
        raw = file.read()
    if not raw.strip():
        raise DataError(f"{path}: empty file")
    for mark, name in _FOREIGN_MARKS:
        if raw.startswith(mark):
            raise DataError(f"{path}: must be UTF-8, got {name} (byte order mark at byte offset 0)")
    if b"\x00" in raw[:4]:  # JSON and CSV begin with ASCII, which has a zero byte in UTF-16 and UTF-32 only
        offset = raw.index(b"\x00")
        raise DataError(f"{path}: must be UTF-8, got UTF-16 or UTF-32 (a zero byte at byte offset {offset})")
    skipped = len(UTF8_MARK) if raw.startswith(UTF8_MARK) else 0
    try:
        return raw[skipped:].decode("utf-8")
    except UnicodeDecodeError as error:
        offset = error.start + skipped
        raise DataError(f"{path}: must be UTF-8, got byte 0x{raw[offset]:02x} at byte offset {offset}") from error


@contextlib.contextmanager
def open_bytes(path: Path) -> Iterator[gzip.GzipFile | BinaryIO]:
    """A file opened for reading, unpacked where its name ends in .gz.

    Raises:
        DataError: in place of what opening it, or reading from it, raises.
    """
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            yield file
    except EOFError as error:
        raise DataError(f"{path}: the gzip file is cut short") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: not a gzip file, or a damaged one ({error})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def loads(text: str) -> Any:
    """``json.loads`` without the constants that JSON does not have (NaN, Infinity, -Infinity), and without objects that
    have a key twice, of which ``json.loads`` would keep the last value.

    Raises:
        ValueError: not JSON, or a key twice; the message tells line and column, or the key.
    """
    try:
        return json.loads(text, parse_constant=_refuse, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON at line {error.lineno} column {error.colno}: {error.msg}") from error
    except _ConstantFound as error:
        raise ValueError(f"not JSON at {_location_of_constant(text)}: {error}") from error
    except RecursionError as error:
        raise ValueError("not JSON that can be read: nested too deeply") from error


class _ConstantFound(ValueError):
    pass


def _refuse(constant: str) -> Any:
    raise _ConstantFound(f"{constant} is not allowed")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((name, _),) = collections.Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"an object has the key {short(name)} twice")
    return found


def _location_of_constant(text: str) -> str:
    offset = next((match.start() for match in _STRING_OR_CONSTANT.finditer(text) if match[1]), 0)
    return f"line {text.count(chr(10), 0, offset) + 1} column {offset - text.rfind(chr(10), 0, offset)}"


def read_json(path: Path) -> Any:
    """The value of a .json file.

    Raises:
        DataError: as :func:`read_text`, or the file is not JSON.
    """
    try:
        return loads(read_text(path))
    except DataError:
        raise
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error


def read_object(path: Path, holds: str = "one JSON object") -> dict[str, Any]:
    """The value of a .json file that must hold one object, such as predictions by question id.

    Raises:
        DataError: as :func:`read_json`, or the file holds something else than ``holds`` says.
    """
    root = read_json(path)
    if not isinstance(root, dict):
        raise DataError(f"{path}: must be {holds}, got {short(root)}")
    return root


def iter_jsonl(path: Path) -> Iterator[tuple[Location, Any]]:
    """The values of a JSONL file with their locations, read as a stream; blank lines are passed over.

    A line that is not JSON in UTF-8 gives an `Unreadable`, so that it counts as one bad record.

    Raises:
        DataError: the file cannot be read, has no line, or holds a list of records.
    """
    empty = True
    # Only a line feed ends a line of JSONL: str.splitlines would also cut at U+2028 and others within a text.
    for number, line in enumerate(iter_lines(path), 1):
        if not line.strip():
            continue
        if empty and _LIST_BEGINS.match(line) and ".jsonl" in path.name.lower():
            raise DataError(f"{path}: must have a record a line, got a list: name it .json")
        empty = False
        value: Any
        try:
            value = loads(decoded(line).rstrip())
        except ValueError as error:
            reason = str(error).replace("at line 1 ", "at ", 1)
            cut = "" if line.endswith(b"\n") else " (the last line: the file may be cut short)"
            value = Unreadable(f"{reason}{cut}")
        yield ("line", number), value
    if empty:
        raise DataError(f"{path}: empty file")


def iter_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, with their line feeds, without a byte order mark.

    Raises:
        DataError: the file cannot be read, or is in UTF-16 or UTF-32.
    """
    with open_bytes(path) as file:
        for number, line in enumerate(file):
            if number == 0:
                if line.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\x00" in line[:4]:
                    raise DataError(f"{path}: must be UTF-8, got UTF-16 or UTF-32")
                line = line.removeprefix(UTF8_MARK)
            yield line


def decoded(line: bytes) -> str:
    """A line as text.

    Raises:
        ValueError: it is not UTF-8; the message tells the byte.
    """
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"must be UTF-8, got byte 0x{line[error.start]:02x} at byte {error.start + 1}") from error


def read_json_or_lines(path: Path) -> Any:
    """The value of a .json file; of one that holds a record a line (JSONL), the iterator of :func:`iter_jsonl`.

    Raises:
        DataError: as :func:`read_json`.
    """
    try:
        return read_json(path)
    except DataError as error:
        if "Extra data" in str(error) and isinstance(next(iter_jsonl(path))[1], dict):
            return iter_jsonl(path)
        raise


def iter_json(path: Path) -> Iterator[tuple[Location, Any]]:
    """The records of a .json file with their locations: a list, by itself or under "data", records by their ids, or
    one record a line (JSONL).

    Raises:
        DataError: as :func:`read_json`, or the file holds something else.
    """
    root = read_json_or_lines(path)
    if isinstance(root, Iterator):
        yield from root
        return
    rule = 'must be a list of records, or an object with such a list under "data"'
    if isinstance(root, dict):
        name = "Data" if "Data" in root and "data" not in root else "data"  # TriviaQA's
        if name not in root and root and all(isinstance(value, dict) for value in root.values()):  # PubMedQA's
            root = {name: [{"id": key, **value} for key, value in root.items()]}
        if name not in root:
            raise DataError(f"{path}: {rule}, got the keys {short(sorted(root))}")
        if not isinstance(root[name], list):
            raise DataError(f'{path}: "{name}" must be a list of records, got {short(root[name])}')
        root = root[name]
    if not isinstance(root, list):
        raise DataError(f"{path}: {rule}, got {short(root)}")
    yield from ((("record", number), record) for number, record in enumerate(root, 1))
