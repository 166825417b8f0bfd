"""The validated reader of SQuAD-style files: the form is told by the file's ending, the faults are raised together."""

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from model_hub_rqa.data.squad_form import SquadForm
from model_hub_rqa.data.tables import iter_csv, iter_parquet, iter_saved, squad_columns
from model_hub_rqa.data.text_files import iter_jsonl, read_json
from model_hub_rqa.errors import ConfigError, DataError

# Types of a row's values in the words of Arrow; [type] is a list.
SQUAD_FEATURES: Mapping[str, Any] = {
    "id": "string",
    "title": "string",
    "context": "string",
    "question": "string",
    "answers": {"text": ["string"], "answer_start": ["int32"]},
}
KNOWN_ENDINGS = (".json", ".json.gz", ".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".parquet")


@dataclass(frozen=True)
class Records:
    """What a reader returns.

    Attributes:
        rows: plain dictionaries, all with the same keys. Of :func:`read_squad`: ``{"id": str, "title": str,
            "context": str, "question": str, "answers": {"text": [str], "answer_start": [int]}}``; answer_start counts
            characters.
        skipped: a line for each fault of the records that were left out (on_bad_record "skip").
        n_skipped: how many records were left out.
        features: types of a row's values, such as :data:`SQUAD_FEATURES`; None to infer them from the rows.
    """

    rows: list[dict[str, Any]]
    skipped: tuple[str, ...] = ()
    n_skipped: int = 0
    features: Mapping[str, Any] | None = None

    @property
    def n_unanswerable(self) -> int:
        """Questions without an answer (of :func:`read_squad`)."""
        return sum(not row["answers"]["text"] for row in self.rows)


def read_squad(
    path: str | PathLike[str],
    *,
    version_2_with_negative: bool,
    require_answers: bool = True,
    on_bad_record: str = "error",
) -> Records:
    """Reads and validates a SQuAD-style file.

    By the ending of its name: .json (the official nested form, or flat records under "data"), .jsonl (a flat record a
    line), .csv, each also with .gz; .parquet; or a folder that ``Dataset.save_to_disk`` wrote. Answers of a flat
    record are ``{"text": [...], "answer_start": [...]}`` or a list of ``{"text", "answer_start"}``; a CSV file has
    them as JSON in the column answers, or one of them in answer_text and answer_start. Ids that are whole numbers
    become text; a title that is missing becomes "". Each answer's text must stand in the context, character by
    character, at its answer_start.

    Args:
        path: the file or folder.
        version_2_with_negative: whether questions without an answer are allowed. A nested record says so with
            is_impossible, a flat one with that or with empty answers.
        require_answers: False for a file to predict on: answers may then be missing whatever the version.
        on_bad_record: "error", or "skip" to leave faulty records out and return their faults.

    Raises:
        DataError: all faults, each a line ``FILE: record ID (place): rule, value found``; places count from 1. Faults
            of the file itself (unreadable, broken JSON, another structure, declared unanswerable questions that
            version_2_with_negative forbids) are raised with "skip" as well, and so is a file of which nothing
            remains.
        ConfigError: on_bad_record is neither "error" nor "skip".
    """
    if on_bad_record not in ("error", "skip"):
        raise ConfigError(f'on_bad_record: must be "error" or "skip", found {on_bad_record!r}')
    form = SquadForm(str(path), version_2_with_negative=version_2_with_negative, require_answers=require_answers)
    _fill(form, Path(path), require_answers)
    return _finish(form, skip=on_bad_record == "skip")


def _fill(form: SquadForm, path: Path, require_answers: bool) -> None:
    name = path.name.lower()
    if not path.exists():
        raise DataError(f"{path}: no such file")
    if path.is_dir():
        records = iter_saved(path, squad_columns(require_answers))
    elif name.endswith((".json", ".json.gz")):
        form.add_json(read_json(path))
        return
    elif name.endswith((".jsonl", ".jsonl.gz")):
        records = iter_jsonl(path, form.fatal)
    elif name.endswith((".csv", ".csv.gz")):
        records = iter_csv(path, require_answers=require_answers)
    elif name.endswith(".parquet"):
        records = iter_parquet(path, squad_columns(require_answers))
    else:
        known = ", ".join(KNOWN_ENDINGS)
        raise DataError(f"{path}: unknown file ending {path.suffix!r} (known: {known}, or a folder of save_to_disk)")
    for place, record in records:
        form.add_flat(place, record)


def _finish(form: SquadForm, *, skip: bool) -> Records:
    forbidden = form.unanswerable if not skip or any(declared for _, declared in form.unanswerable) else []
    fatal = [*form.fatal, *_forbidden_line(form, forbidden)]
    skippable = list(form.bad)
    if not forbidden:
        skippable += [f"{place}: unanswerable, needs version_2_with_negative: true" for place, _ in form.unanswerable]
    if fatal or (skippable and not skip):
        raise DataError([*fatal, *skippable])
    if not form.rows:
        nothing = "holds no record" if not form.n_records else f"no record remains, all {form.n_records:,} are faulty"
        raise DataError([f"{form.file}: {nothing}", *skippable])
    return Records(form.rows, tuple(skippable), form.n_skipped, SQUAD_FEATURES)


def _forbidden_line(form: SquadForm, forbidden: list[tuple[str, bool]]) -> list[str]:
    if not forbidden:
        return []
    first = forbidden[0][0].removeprefix(f"{form.file}: ")
    return [
        f"{form.file}: {len(forbidden):,} of {form.n_records:,} questions are unanswerable: "
        f"set version_2_with_negative: true (the first: {first})"
    ]
