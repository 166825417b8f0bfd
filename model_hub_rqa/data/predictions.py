"""Questions to ask, and files of predicted answers, in the forms that evaluators take.

- SQuAD's: a JSON object of answers by question id;
- ``evaluate``'s: records with id and prediction_text (and no_answer_probability), in a JSON list or JSONL;
- this package's predictions.jsonl: id, prediction and references;
- EfficientQA's: question and prediction, matched by the question's text (Min et al. 2021, arXiv:2101.00133);
- KILT's: id and output, a list whose first answer counts (Petroni et al. 2021, arXiv:2009.02252).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

from model_hub_rqa.data.checks import check_policy
from model_hub_rqa.data.file_loaders import Records, table_format
from model_hub_rqa.data.files import iter_file
from model_hub_rqa.data.formats.fid import read_fusion
from model_hub_rqa.data.formats.nested import is_article, is_conversation
from model_hub_rqa.data.formats.questions import QuestionFormat, format_of
from model_hub_rqa.data.formats.squad import SquadQuestions
from model_hub_rqa.data.text_files import Unreadable, iter_jsonl, read_json_or_lines, short, where
from model_hub_rqa.errors import DataError
from model_hub_rqa.records import Passage, Question, Turn


def is_squad_format(path: str | PathLike[str]) -> bool:
    """Whether a file's first record is in SQuAD's format: a context, and no turns before its question.

    Raises:
        DataError: the file is not there, or cannot be read.
    """
    file = Path(path)
    for _, record in iter_file(file) if table_format(file) is None else ():
        if isinstance(record, dict):
            flat = isinstance(format_of(record), SquadQuestions) and not record.get("chat_history")
            return flat or (is_article(record) and not is_conversation(record))
    return False


def read_questions(
    path: str | PathLike[str],
    *,
    require_answers: bool = True,
    require_passages: bool = True,
    on_bad_record: str = "error",
    question_format: QuestionFormat | None = None,
) -> Records:
    """Reads and validates questions with their gold answers and passages; see `formats.fid.read_fusion`."""
    check_policy(on_bad_record)
    return read_fusion(
        path,
        require_answers=require_answers,
        require_passages=require_passages,
        on_bad_record=on_bad_record,
        question_format=question_format,
    )


def question_of(row: Mapping[str, Any]) -> Question:
    """A row as a reader is asked it."""
    passages = tuple(Passage(passage["id"], passage["text"], passage["title"]) for passage in row["passages"])
    history = tuple(Turn(turn["role"], turn["text"]) for turn in row["chat_history"])
    return Question(row["question"], passages, history, id=row["id"])


def from_squad(row: dict[str, Any]) -> dict[str, Any]:
    """A row of `file_loaders.read_squad` in the form of `formats.fid.FUSION_FEATURES`; its context is gold."""
    gold = {"id": "", "title": row["title"], "text": row["context"], "score": None, "gold": True}
    return {
        "id": row["id"],
        "question": row["question"],
        "chat_history": [],
        "target": "",
        "answers": list(dict.fromkeys(row["answers"]["text"])),
        "passages": [gold],
        "negatives": [],
    }


JSONL = (".jsonl", ".jsonl.gz")


@dataclass(frozen=True)
class Predictions:
    """Predicted answers.

    Attributes:
        file: where they are from.
        lines: by key an object with prediction, and references and no_answer_probability where the file has them.
        key: "id", or "question" where they have no ids.
    """

    file: str
    lines: Mapping[str, Mapping[str, Any]]
    key: str = "id"

    def of_rows(self, rows: Iterable[Mapping[str, Any]]) -> tuple[dict[str, Mapping[str, Any]], int]:
        """Finds the predictions of questions.

        Args:
            rows: the data, each with id and question.

        Returns:
            The lines by the id of their row, in the order of the rows; and how many of the predictions these are.

        Raises:
            DataError: there are none.
        """
        keys = {row["id"]: row[self.key].strip() if self.key == "question" else row["id"] for row in rows}
        found = {own: self.lines[key] for own, key in keys.items() if key in self.lines}
        if not found:
            raise DataError(
                f"{self.file}: no {self.key} of the predictions is in the data: got {_first(self.lines)}, and the data "
                f"has {_first(keys.values())}{self._hint()}"
            )
        return found, len({keys[own] for own in found})

    def _hint(self) -> str:
        if {"answer", "sp"} <= set(self.lines):
            return ' (HotpotQA\'s form: write the object under "answer" into a file of its own)'
        return ""


def read_predictions(path: str) -> Predictions:
    """Reads a file of predictions in any of the forms.

    Raises:
        DataError: all errors, each with its location: a record without id (or question) or answer, an id that comes
            twice, what is no JSON; or the file holds no prediction.
    """
    file = Path(path)
    errors: list[str] = []
    if path.lower().endswith(JSONL):
        records: Iterable[Any] = iter_jsonl(file)
    elif isinstance(content := read_json_or_lines(file), Iterator):
        records = content
    else:
        if isinstance(content, dict) and content:
            return Predictions(path, {key: {"prediction": answer} for key, answer in content.items()})
        if not isinstance(content, dict | list):
            raise DataError(f"{path}: must be one JSON object by question id, or a list, got {short(content)}")
        records = ((("record", number), record) for number, record in enumerate(content, 1))
    lines: dict[str, dict[str, Any]] = {}
    kind = ""
    for location, record in records:
        if isinstance(record, Unreadable):
            errors.append(f"{path}: {where(location)}: {record}")
            continue
        kind = kind or (
            "question" if isinstance(record, dict) and "id" not in record and "question" in record else "id"
        )
        try:
            key, line = _read_line(record, kind)
            if key in lines:
                raise ValueError(f"duplicate {kind} {short(key)}")
        except ValueError as error:
            errors.append(f"{path}: {where(location)}: {error}, got {short(record)}")
        else:
            lines[key] = line
    if errors or not lines:
        raise DataError(errors or f"{path}: holds no prediction")
    return Predictions(path, lines, kind)


def _read_line(record: Any, kind: str) -> tuple[str, dict[str, Any]]:
    """The key and the line of a record; ValueError says which rule it breaks."""
    key = record.get(kind) if isinstance(record, dict) else None
    if not isinstance(key, str if kind == "question" else str | int) or isinstance(key, bool):
        raise ValueError(f"must be an object with {kind}")
    line = {name: record[name] for name in ("references", "no_answer_probability") if name in record}
    name, answer = _answer(record)
    if not isinstance(answer, str):
        raise ValueError(f"{name} must be text")
    references = line.get("references", [])
    if not isinstance(references, list) or not all(isinstance(answer, str) for answer in references):
        raise ValueError("references must be a list of texts")
    return str(key).strip() if kind == "question" else str(key), {"prediction": answer, **line}


def _answer(record: Mapping[str, Any]) -> tuple[str, Any]:
    """The name of the field that has the answer, and the answer."""
    if "prediction" not in record and isinstance(record.get("output"), list):
        answers = (item.get("answer") for item in record["output"] if isinstance(item, dict))
        return "output: the first answer", next((answer for answer in answers if answer is not None), None)
    name = "prediction_text" if "prediction_text" in record and "prediction" not in record else "prediction"
    return name, record.get(name)


def _first(keys: Iterable[str], count: int = 3) -> str:
    shown = list(islice(keys, count + 1))
    return ", ".join(map(short, shown[:count])) + (", ..." if len(shown) > count else "")
