"""Files of ranked documents, made by any system: TREC's run files and JSON."""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from model_hub_rqa.data.text_files import UTF8_MARK, decoded, iter_lines, open_bytes, read_json_or_lines, short
from model_hub_rqa.errors import DataError

Ranking = dict[str, float]  # scores by document id

_HINT = "(predictions of answers are scored with --data)"
_JSON_RUN = re.compile(r'\{\s*"(?:[^"\\]|\\.)*"\s*:\s*\{\s*(?:\}|"(?:[^"\\]|\\.)*"\s*:\s*-?[0-9])')


def read_run(path: str) -> dict[str, Ranking]:
    """The scores of the documents that a system retrieved, by query id; blanks in ids as of :func:`trec_id`.

    Args:
        path: TREC's form (a line for each document: query, Q0, document, rank, score and tag, blanks or tabs between)
            or one JSON object, ``{query: {document: score}}``; each also with .gz.

    Raises:
        DataError: all errors of the file: a line that has not six fields, a score that is no finite number, a document
            twice for a query; or it ranks nothing.
    """
    run, errors = _read_json(path) if _begin(path)[:1] in ("{", "[") else _read_trec(path)
    if errors or not run:
        raise DataError(errors or f"{path}: ranks no document")
    return run


def is_run(path: str) -> bool:
    """Whether a file looks like a run, by its beginning."""
    begin = _begin(path) if Path(path).is_file() else ""
    fields = begin.partition("\n")[0].split()
    return bool(_JSON_RUN.match(begin)) or (len(fields) == 6 and fields[1].upper() == "Q0")


def ranked(scores: Mapping[str, float]) -> list[str]:
    """Document ids, the best first, as trec_eval orders them: by their score in 32 bits, equal ones by their id, the
    last in the order of Unicode first. The ranks in a file do not count."""
    import numpy as np

    single = dict(zip(scores, np.asarray(list(scores.values()), dtype=np.float32).tolist(), strict=True))
    return sorted(scores, key=lambda document: (single[document], document), reverse=True)


def trec_id(id_: str) -> str:
    """An id as it stands in TREC's form, where blanks separate the fields: %20 for a blank, and the like."""
    return re.sub(r"\s", lambda blank: f"%{ord(blank[0]):02X}", id_)


def trec_lines(query: str, ranking: Mapping[str, float], tag: str) -> Iterator[str]:
    """The lines of a TREC run, for documents with their scores, the best first.

    Evaluators order by score alone and break ties by document id: so that they keep our order, a score that does not
    fall is lowered to the next smaller number of 32 bits.
    """
    import numpy as np

    last = np.float32(np.inf)
    for rank, (document, score) in enumerate(ranking.items(), 1):
        last = min(np.float32(score), np.nextafter(last, np.float32(-np.inf)))
        yield f"{trec_id(query)} Q0 {trec_id(document)} {rank} {float(last)!r} {tag}\n"


def _begin(path: str) -> str:
    with open_bytes(Path(path)) as file:
        return file.read(4096).removeprefix(UTF8_MARK).decode("utf-8", errors="replace").lstrip()


def _read_trec(path: str) -> tuple[dict[str, Ranking], list[str]]:
    run: dict[str, Ranking] = {}
    errors = []
    for number, line in enumerate(iter_lines(Path(path)), 1):
        try:
            fields = decoded(line).split()
        except ValueError as error:
            errors.append(f"{path}: line {number}: {error}")
            continue
        if not fields:
            continue
        if len(fields) != 6:
            rule = "must have query, Q0, document, rank, score and tag"
            errors.append(f"{path}: line {number}: {rule}, got {short(' '.join(fields))}")
            continue
        query, _, document, _, score, _ = fields
        ranking = run.setdefault(query, {})
        if document in ranking:
            errors.append(f"{path}: line {number}: document {document!r} is ranked twice for query {query!r}")
        ranking[document] = _number(score)
        if not math.isfinite(ranking[document]):
            errors.append(f"{path}: line {number}: score must be a finite number, got {short(score)}")
    return run, errors


def _read_json(path: str) -> tuple[dict[str, Ranking], list[str]]:
    content = read_json_or_lines(Path(path))
    if not isinstance(content, dict):
        got = "an object a line" if isinstance(content, Iterator) else short(content)
        return {}, [f"{path}: must be one JSON object of scores by document id by query id, got {got} {_HINT}"]
    errors = []
    for query, ranking in content.items():
        if not isinstance(ranking, dict):
            got = f"got {short(ranking)} {_HINT}"
            errors.append(f"{path}: query {short(query)}: must be an object of scores by document id, {got}")
            continue
        for document, score in ranking.items():
            if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(_number(score)):
                rule = f"the score of {short(document)} must be a finite number"
                errors.append(f"{path}: query {short(query)}: {rule}, got {short(score)}")
    if errors:
        return {}, errors
    items = ((trec_id(query), ranking.items()) for query, ranking in content.items())
    return {query: {trec_id(document): score for document, score in scores} for query, scores in items}, []


def _number(value: Any) -> float:
    """A number, or a text that is one; NaN otherwise."""
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan
