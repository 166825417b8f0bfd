"""Questions in a layout of one's own: a path for each part of the record, as ``data.fields`` has them."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from model_hub_rqa.config.fields import FieldError, did_you_mean, show
from model_hub_rqa.data.formats.questions import QuestionFormat, Record, Row, named_format, passages_of
from model_hub_rqa.data.text_files import Unreadable, short
from model_hub_rqa.errors import ConfigError

PARTS = ("question", "id", "answers", "target", "chat_history", "passages", "titles", "passage_ids", "gold")
"""What a path may be given for; the last three go with ``passages``, of which there must be as many."""
_STEP = re.compile(r"(?:^|\.)([^.\[\]]+)|\[(\*|\d+)\]")


class Fields(QuestionFormat):
    """Reads each part of a record where its path says.

    A path has names with dots between, ``[0]`` for an item of a list and ``[*]`` for all: ``paragraphs[*].text``.

    Args:
        paths: by the names in `PARTS`; question must be there.

    Raises:
        ConfigError: an unknown part, or what is no path; all of them.
    """

    def __init__(self, paths: Mapping[str, Any]) -> None:
        rule = f"is not a part of a question ({', '.join(PARTS)})"
        errors = [f"fields.{name}: {rule}{did_you_mean(name, PARTS)}" for name in paths if name not in PARTS]
        errors += [] if "question" in paths else ["fields.question: is required"]
        given = [name for name in PARTS[-3:] if name in paths and "passages" not in paths]
        errors += [f"fields.{name}: needs fields.passages" for name in given]
        for name, path in paths.items():
            if not isinstance(path, str) or not path or "".join(one[0] for one in _STEP.finditer(path)) != path:
                errors.append(f"fields.{name}: must be a path as in answers[0].text or docs[*].text, got {show(path)}")
        if errors:
            raise ConfigError(errors)
        self.paths = dict(paths)
        self.names = sorted({re.split(r"[.\[]", path)[0] for path in paths.values()})

    def read(self, record: Record) -> Row:
        common = {name: _value(record, name, path) for name, path in self.paths.items() if name not in PARTS[5:]}
        if isinstance(answer := common.get("answers"), str) and not isinstance(answer, Unreadable):
            common["answers"] = [answer]
        return common | ({"passages": self._passages(record)} if "passages" in self.paths else {})

    def _passages(self, record: Record) -> list[Any]:
        columns = {name: _value(record, name, self.paths[name]) for name in PARTS[5:] if name in self.paths}
        wrong = [value for value in columns.values() if isinstance(value, Unreadable)]
        lists = {name: value if isinstance(value, list) else [value] for name, value in columns.items()}
        lengths = {name: len(value) for name, value in lists.items()}
        if not wrong and len(set(lengths.values())) > 1:
            wrong = [Unreadable(f"fields.passages must have as many of each, got {short(lengths)}")]
        if wrong:
            return wrong
        texts = [{"text": one} if isinstance(one, str) else one for one in lists["passages"]]
        found = passages_of({"passages": texts}, "passages", gold="gold" if "gold" in lists else "isgold")
        for name, own in (("titles", "title"), ("passage_ids", "id"), ("gold", "gold")):
            for passage, value in zip(found, lists.get(name, ()), strict=False):
                if isinstance(passage, dict):
                    passage[own] = value
        return found


def _value(record: Record, part: str, path: str) -> Any:
    """What stands at a path, a list where it has ``[*]``; an `Unreadable` where there is nothing."""
    try:
        return _follow(record, [step.groups() for step in _STEP.finditer(path)], "the record")
    except ValueError as error:
        return Unreadable(f"fields.{part}: {path} is not in the record: {error}")


def _follow(value: Any, steps: list[Any], at: str) -> Any:
    for number, (name, index) in enumerate(steps):
        at = at if number == 0 else at.removeprefix("the record.")
        if name is not None:
            if not isinstance(value, Mapping):
                raise ValueError(f"{at} must be an object, got {short(value)}")
            if name not in value:
                raise ValueError(f"{at} has no {name}, got {', '.join(map(str, value)) or 'no field'}")
            value, at = value[name], f"{at}.{name}"
            continue
        if not isinstance(value, list):
            raise ValueError(f"{at} must be a list, got {short(value)}")
        if index == "*":
            rest = steps[number + 1 :]
            found = [_follow(one, rest, f"{at}[{i}]") for i, one in enumerate(value)]
            return [one for part in found for one in part] if any(step[1] == "*" for step in rest) else found
        if int(index) >= len(value):
            raise ValueError(f"{at} has no item {index}, got {len(value)} items")
        value, at = value[int(index)], f"{at}[{index}]"
    return value


def format_errors(name: str | None, fields: Any) -> Iterator[FieldError]:
    """What is wrong with the settings ``format`` and ``fields``, as :func:`parse_format` takes them."""
    try:
        parse_format(name, fields if isinstance(fields, Mapping) else None)
    except ConfigError as error:
        for line in error.errors:
            path, _, text = line.partition(": ")
            yield FieldError((path, path.partition(".")[0]), text)


def parse_format(name: str | None, fields: Mapping[str, Any] | None) -> QuestionFormat | None:
    """The format that ``format`` names, or that ``fields`` describes; None without either.

    Raises:
        ConfigError: both are given, there is no such format, or the fields break a rule.
    """
    if fields is None:
        return named_format(name)
    if name is not None:
        raise ConfigError("fields: is ignored beside format: give one of the two")
    return Fields(fields)
