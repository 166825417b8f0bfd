"""Records of questions with passages that answer them and others that do not, for retrievers and rerankers.

Beside the formats that `question_row` reads (FiD's with gold marks, LocalRQA's, SQuAD's ...) there are DPR's training
file (Karpukhin et al. 2020, arXiv:2004.04906) and the rows of sentence-transformers.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from model_hub_rqa.data.checks import Checks
from model_hub_rqa.data.file_loaders import Records, iter_questions
from model_hub_rqa.data.formats.fid import FUSION_FEATURES
from model_hub_rqa.data.formats.questions import format_of, question_row
from model_hub_rqa.data.text_files import short

Row = dict[str, Any]

_QUESTIONS = ("question", "query", "anchor")
_DPR = ("positive_ctxs", "hard_negative_ctxs")
_NEGATIVE = re.compile(r"negative(_\d+)?")
_SCORES = ("scores", "labels", "label", "score")


def read_judged(path: str, on_bad_record: str) -> Records:
    """Reads and validates a file of questions with passages; gold ones are positives, all others negatives.

    Returns:
        Rows as `FUSION_FEATURES` describes them.

    Raises:
        DataError: every error, among them a negative that equals a positive.
    """
    checks, rows = Checks(path, on_bad_record), []
    for location, record in iter_questions(path, needed=(_QUESTIONS,)):
        if not checks.is_object(location, record):
            continue
        errors: list[str] = []
        id_ = checks.identify(location, record, errors)
        plain, question = _as_fusion(record, errors)
        plain = plain if question == "question" else {**plain, "question": record[question]}
        form = format_of(plain)
        common = form.read(plain)
        row = {} if errors else question_row(plain, common, form, errors, answers=False, passages=False)
        if not errors:
            errors += _contradictions(row)
        if checks.passed(location, id_, errors):
            rows.append({"id": id_, **row})
    skipped = checks.finish(len(rows))
    return Records(rows, skipped, checks.n_bad, FUSION_FEATURES, numbered=checks.numbered)


def _as_fusion(record: Mapping[str, Any], errors: list[str]) -> tuple[Mapping[str, Any], str]:
    """A record of DPR's training file or of sentence-transformers in the form of FiD's, and its question's field."""
    question = next((name for name in _QUESTIONS if name in record), _QUESTIONS[0])
    if _DPR[0] in record:
        parts = []
        for name, gold in zip(_DPR, (True, False), strict=True):
            listed = record.get(name) or []
            if not isinstance(listed, list) or not all(isinstance(one, Mapping) for one in listed):
                errors.append(f"{name} must be a list of objects with title and text, got {short(listed)}")
                continue
            parts += [{**one, "id": one.get("id", one.get("passage_id", "")), "isgold": gold} for one in listed]
        return {**record, "ctxs": parts}, question
    if "positive" in record:
        names = ["positive", *(name for name in record if _NEGATIVE.fullmatch(name))]
        texts = [record[name] for name in names]
        if len(texts) == 2 and isinstance(texts[1], list):
            texts = [texts[0], *texts[1]]
        scores = _scores(record, len(texts), errors)
        ctxs = [{"text": text, "score": score, "isgold": False} for text, score in zip(texts, scores, strict=True)]
        ctxs[0]["isgold"] = True
        return {"question": record[question], "ctxs": ctxs}, "question"
    return record, question


def _scores(record: Mapping[str, Any], count: int, errors: list[str]) -> Sequence[Any]:
    """A score for the positive and each negative; one number beside one negative is their difference."""
    name = next((name for name in _SCORES if record.get(name) is not None), None)
    if name is None:
        return [None] * count
    value = record[name]
    if count == 2 and isinstance(value, int | float):
        return [value, 0.0]
    if not isinstance(value, list) or len(value) not in (count, count - 1):
        errors.append(f"{name} must be a list of {count} numbers, the positive's first, got {short(value)}")
        return [None] * count
    return value if len(value) == count else [0.0, *(-margin for margin in value)]  # margins, as MarginMSE's


def _contradictions(row: Mapping[str, Any]) -> Iterator[str]:
    positives = {passage_key(one) for one in row["passages"] if one["gold"]}
    for number, negative in enumerate(negatives_of(row), 1):
        if passage_key(negative) in positives:
            yield f"negative {number} must not be a positive as well, got {short(negative['text'])}"


def positives_of(row: Mapping[str, Any]) -> list[Row]:
    """The passages that answer a question, in their order."""
    return [passage for passage in row["passages"] if passage["gold"]]


def negatives_of(row: Mapping[str, Any]) -> list[Row]:
    """Those that do not, in their order."""
    return [*(passage for passage in row["passages"] if not passage["gold"]), *row["negatives"]]


def passage_text(passage: Mapping[str, Any]) -> str:
    """What is encoded of a passage: title and text, as an index has them."""
    return f"{passage['title']} {passage['text']}".strip()


def passage_key(passage: Mapping[str, Any]) -> int:
    """A number for a passage's title and text, the same where they differ in white space alone."""
    return text_key(passage_text(passage))


def text_key(text: str) -> int:
    """63 bits of a hash of a text's words."""
    return int.from_bytes(hashlib.sha256(" ".join(text.split()).encode()).digest()[:8], "big") >> 1
