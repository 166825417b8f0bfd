"""A checker of experiment configurations against Determined's JSON schemas, and the rules that its master adds.

The schemas are draft 7 with keywords of Determined's own, which a plain validator passes over in silence:

``union``               exactly one item must match; where none does, the first item whose ``unionKey`` fits the value
                        is the one that the user meant, and its errors are told
``checks``              subschemas under the message for a value that does not match
``compareProperties``   one property against another: ``a<b``, ``a<=b``, ``a_is_subdir_of_b``
``disallowProperties``  messages under the names of properties that must not be there
``optionalRef``         ``$ref``, but null passes
``eventuallyRequired``  ``required``, null counting as missing, but only once the cluster's own settings are merged in
``eventually``          a subschema for that second pass only

A schema with any other keyword is refused, so that a rule which is not understood is never taken for one that holds.
"""

import copy
import json
import math
import os.path
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

BASE = "http://determined.ai/schemas/expconf/v0/"
ANNOTATIONS = {"$schema", "$id", "$comment", "title", "default", "unionKey"}

# What a cluster and Determined's defaults add before the second pass.
CLUSTER: dict[str, Any] = {
    "name": "drawn by the master",
    "checkpoint_storage": {"type": "shared_fs", "host_path": "/var/checkpoints"},
    "environment": {"image": {"cpu": "image", "cuda": "image", "rocm": "image"}},
    "hyperparameters": {},
    "reproducibility": {"experiment_seed": 0},
}
REMOVED_SEARCHERS = ("adaptive", "adaptive_simple", "custom", "sync_halving")


def kind(value: Any) -> str:
    """The JSON type of a value; a whole number is an integer however it is written, as YAML's 1.0 becomes JSON's 1."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "integer" if math.isfinite(value) and value == int(value) else "number"
    for python, name in ((str, "string"), (list, "array"), (dict, "object")):
        if isinstance(value, python):
            return name
    raise TypeError(f"{value!r} has no JSON type")


def is_kind(value: Any, wanted: str) -> bool:
    return kind(value) == wanted or (wanted == "number" and kind(value) == "integer")


def same(one: Any, other: Any) -> bool:
    """Equality of JSON scalars; Python's would take true for 1."""
    return kind(one) == kind(other) and bool(one == other)


def fits(key: str, value: Any) -> bool:
    """Whether a ``unionKey`` says that the value is meant for its item."""
    name, _, rest = key.partition(":")
    fields = value if isinstance(value, dict) else {}
    if name == "not":
        return not fits(rest, value)
    if name == "const":
        field, _, constant = rest.partition("=")
        return field in fields and same(fields[field], constant)
    if name == "type" and rest in ("array", "object"):
        return kind(value) == rest
    if name == "hasattr":
        return rest in fields
    if name == "singleproperty":
        return list(fields) == [rest]
    if key in ("always", "never"):
        return key == "always"
    raise ValueError(f"unionKey {key!r} is unknown")


def compares(relation: str, a: Any, b: Any) -> bool:
    """Whether two values stand as they should. Values of other types pass: their own schemas speak of those."""
    if relation in ("a<b", "a<=b"):
        if not (is_kind(a, "number") and is_kind(b, "number")):
            return True
        return bool(a < b if relation == "a<b" else a <= b)
    if relation == "a_is_subdir_of_b":
        if not (isinstance(a, str) and isinstance(b, str)):
            return True
        a, b = os.path.normpath(a), os.path.normpath(b)
        return a.startswith(b) if os.path.isabs(a) else not a.startswith("..")  # by prefix, as Determined does
    raise ValueError(f"compareProperties of type {relation!r} is unknown")


class Schemas:
    """Schemas by their ``$id``; `errors` checks a value against one of them.

    Args:
        schemas: every schema that is referenced to.

    Raises:
        ValueError: for a keyword that is not known.
    """

    def __init__(self, schemas: Iterable[Mapping[str, Any]]) -> None:
        self.by_id = {schema["$id"]: schema for schema in schemas}
        self.eventually = False
        for schema in self.by_id.values():
            self._know(schema)

    @classmethod
    def of_folder(cls, folder: str | Path) -> "Schemas":
        """The schemas of a folder's ``*.json``."""
        return cls(json.loads(path.read_text(encoding="utf-8")) for path in sorted(Path(folder).glob("*.json")))

    def errors(self, value: Any, schema: str = "experiment.json", *, complete: bool = False) -> list[str]:
        """What is wrong with a value.

        Args:
            value: what JSON can hold.
            schema: the schema's name.
            complete: the second pass, of what has all of the cluster's settings: hold ``eventually...`` too.
        """
        self.eventually = complete
        return list(self._errors(self.by_id[BASE + schema], value, "<config>"))

    def _know(self, schema: Any) -> None:
        if isinstance(schema, bool):
            return
        for name, rule in schema.items():
            if name not in KEYWORDS and name not in ANNOTATIONS:
                raise ValueError(f"the keyword {name!r} is unknown")
            for inner in _subschemas(name, rule):
                self._know(inner)

    def _errors(self, schema: Any, value: Any, place: str) -> Iterator[str]:
        if isinstance(schema, bool):
            if not schema:
                yield f"{place}: must not be there"
        elif "$ref" in schema:  # what stands beside it is ignored in draft 7
            yield from self._errors(self.by_id[schema["$ref"]], value, place)
        else:
            for names, rule in RULES.items():
                if any(name in schema for name in names):
                    yield from rule(self, schema, value, place)

    def _matches(self, schema: Any, value: Any, place: str) -> bool:
        return next(self._errors(schema, value, place), None) is None

    # ---- draft 7 ----

    def type(self, schema: Any, value: Any, place: str) -> Iterator[str]:
        wanted = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
        if not any(is_kind(value, name) for name in wanted):
            yield f"{place}: must be {' or '.join(wanted)}, got {value!r}"

    def enum(self, schema: Any, value: Any, place: str) -> Iterator[str]:
        allowed = schema["enum"] if "enum" in schema else [schema["const"]]
        if not any(same(value, one) for one in allowed):
            yield f"{place}: must be one of {allowed}, got {value!r}"

    def bounds(self, schema: Any, value: Any, place: str) -> Iterator[str]:
        if is_kind(value, "number"):
            for name, holds in BOUNDS.items():
                if name in schema and not holds(value, schema[name]):
                    yield f"{place}: must keep {name} {schema[name]}, got {value!r}"

    def strings(self, schema: Any, value: Any, place: str) -> Iterator[str]:
        if isinstance(value, str):
            if "pattern" in schema and not re.search(schema["pattern"], value):
                yield f"{place}: must match {schema['pattern']}, got {value!r}"
            if len(value) < schema.get("minLength", 0):
                yield f"{place}: must have {schema['minLength']} characters, got {value!r}"

    def required(self, schema: Any, value: Any, place: str) -> Iterator[str]:
        if isinstance(value, dict):
            yield from (f"{place}: {name} is required" for name in schema["required"] if name not in value)

    def fields(self, schema: Any, value: Any, place: str) -> Iterator[str]:
        """``properties`` and ``additionalProperties``."""
        if not isinstance(value, dict):
            return
        named, other = schema.get("properties", {}), schema.get("additionalProperties", True)
        for name, field in value.items():
            if name in named or other is not False:
                yield from self._errors(named.get(name, other), field, f"{place}.{name}")
            else:
                yield f"{place}: {name} is not a known key"

    def items(self, schema: Any, value: Any, place: str) -> Iterator[str]:
        if isinstance(value, list):
            for number, item in enumerate(value):
                yield from self._errors(schema["items"], item, f"{place}[{number}]")

    def not_(self, schema: Any, value: Any, place: str) -> Iterator[str]:
        if self._matches(schema["not"], value, place):
            yield f"{place}: must not match {schema['not']}"

    def all_of(self, schema: Any, value: Any, place: str) -> Iterator[str]:
        for inner in schema["allOf"]:
            yield from self._errors(inner, value, place)

    def any_of(self, schema: Any, value: Any, place: str) -> Iterator[str]:
        if not any(self._matches(inner, value, place) for inner in schema["anyOf"]):
            yield f"{place}: must match one of {schema['anyOf']}"

    def one_of(self, schema: Any, value: Any, place: str) -> Iterator[str]:
        if sum(self._matches(inner, value, place) for inner in schema["oneOf"]) != 1:
            yield f"{place}: must match exactly one of {schema['oneOf']}"

    def if_(self, schema: Any, value: Any, place: str) -> Iterator[str]:
        branch = "then" if self._matches(schema.get("if", True), value, place) else "else"
        yield from self._errors(schema.get(branch, True), value, place)

    # ---- Determined's own ----

    def union(self, schema: Any, value: Any, place: str) -> Iterator[str]:
        items = schema["union"]["items"]
        matching = [item for item in items if self._matches(item, value, place)]
        if len(matching) > 1:
            yield f"{place}: matches {len(matching)} of the union's items, and must match one"
        elif not matching:
            yield f"{place}: {schema['union'].get('defaultMessage', 'matches none of the union')}"
            meant = next((item for item in items if fits(item["unionKey"], value)), True)
            yield from self._errors(meant, value, place)

    def checks(self, schema: Any, value: Any, place: str) -> Iterator[str]:
        for message, inner in schema["checks"].items():
            if not self._matches(inner, value, place):
                yield f"{place}: {message}"

    def compare_properties(self, schema: Any, value: Any, place: str) -> Iterator[str]:
        rule = schema["compareProperties"]
        a, b = (_property(value, rule[side]) for side in "ab")
        if not compares(rule["type"], a, b):
            yield f"{place}: {rule['a']} and {rule['b']} must keep {rule['type']}, got {a!r} and {b!r}"

    def disallow_properties(self, schema: Any, value: Any, place: str) -> Iterator[str]:
        if isinstance(value, dict):
            pairs = schema["disallowProperties"].items()
            yield from (f"{place}.{name}: {message}" for name, message in pairs if name in value)

    def optional_ref(self, schema: Any, value: Any, place: str) -> Iterator[str]:
        if value is not None:
            yield from self._errors(self.by_id[schema["optionalRef"]], value, place)

    def eventually_required(self, schema: Any, value: Any, place: str) -> Iterator[str]:
        if self.eventually and isinstance(value, dict):
            missing = (name for name in schema["eventuallyRequired"] if value.get(name) is None)
            yield from (f"{place}: {name} is required" for name in missing)

    def eventually_(self, schema: Any, value: Any, place: str) -> Iterator[str]:
        if self.eventually:
            yield from self._errors(schema["eventually"], value, place)


BOUNDS: Mapping[str, Callable[[Any, Any], bool]] = {
    "minimum": lambda value, bound: value >= bound,
    "maximum": lambda value, bound: value <= bound,
    "exclusiveMinimum": lambda value, bound: value > bound,
}


Rule = Callable[[Schemas, Any, Any, str], Iterator[str]]
RULES: Mapping[tuple[str, ...], Rule] = {
    ("type",): Schemas.type,
    ("enum", "const"): Schemas.enum,
    tuple(BOUNDS): Schemas.bounds,
    ("pattern", "minLength"): Schemas.strings,
    ("required",): Schemas.required,
    ("properties", "additionalProperties"): Schemas.fields,
    ("items",): Schemas.items,
    ("not",): Schemas.not_,
    ("allOf",): Schemas.all_of,
    ("anyOf",): Schemas.any_of,
    ("oneOf",): Schemas.one_of,
    ("if", "then", "else"): Schemas.if_,
    ("union",): Schemas.union,
    ("checks",): Schemas.checks,
    ("compareProperties",): Schemas.compare_properties,
    ("disallowProperties",): Schemas.disallow_properties,
    ("optionalRef",): Schemas.optional_ref,
    ("eventuallyRequired",): Schemas.eventually_required,
    ("eventually",): Schemas.eventually_,
}
"""The keywords, and the rule that reads those which belong together."""

KEYWORDS = {"$ref", *(name for names in RULES for name in names)}


def _subschemas(name: str, rule: Any) -> Iterable[Any]:
    """The schemas that stand under a keyword."""
    if name in ("properties", "checks"):
        return list(rule.values())
    if name in ("allOf", "anyOf", "oneOf"):
        return list(rule)
    if name == "union":
        return list(rule["items"])
    return [rule] if name in ("additionalProperties", "items", "not", "if", "then", "else", "eventually") else []


def _property(value: Any, path: str) -> Any:
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


# ---- the master ----


def with_cluster(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration over what a cluster adds; its own checkpoint storage is kept whole."""
    under = copy.deepcopy(CLUSTER)
    if (config.get("checkpoint_storage") or {}).get("type"):
        del under["checkpoint_storage"]
    return _merged(config, under)


def _merged(over: Any, under: Any) -> Any:
    if isinstance(over, dict) and isinstance(under, dict):
        return {name: _merged(over.get(name), under.get(name)) for name in {**under, **over}}
    return under if over is None else over


def master_errors(config: Mapping[str, Any]) -> list[str]:
    """The rules that Determined's master holds a new experiment to beside the schemas."""
    found = []
    searcher, resources = config.get("searcher") or {}, config.get("resources") or {}
    name = searcher.get("name")
    if config.get("entrypoint") is None:
        found.append("<config>: entrypoint is required")
    if resources.get("slots") is not None:
        found.append("<config>.resources: slots is not a known key")
    if name in REMOVED_SEARCHERS:
        found.append(f"<config>.searcher: {name} has been removed")
    if name in ("adaptive_asha", "async_halving"):
        missing = [key for key in ("max_time", "time_metric") if searcher.get(key) is None]
        found += [f"<config>.searcher: {key} is required by {name}" for key in missing]
    return found


def experiment_errors(schemas: Schemas, config: Mapping[str, Any]) -> list[str]:
    """Everything that a master would say of a configuration: both passes, then its own rules."""
    first = schemas.errors(config)
    return first or schemas.errors(with_cluster(config), complete=True) + master_errors(config)


def rungs(searcher: Mapping[str, Any]) -> list[int]:
    """What ``time_metric`` must have reached for each decision of the deepest bracket of ``adaptive_asha``."""
    divisor, time = searcher.get("divisor", 4), searcher["max_time"]

    def depth(count: int) -> int:
        return int(math.log(count) / math.log(divisor)) + 1

    given = searcher.get("bracket_rungs")
    count = max(given) if given else min(searcher.get("max_rungs", 5), depth(time), depth(searcher["max_trials"]))
    return [max(int(time / divisor ** (count - 1 - rung)), 1) for rung in range(count)]
