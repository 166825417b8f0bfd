"""A JSON schema of an experiment configuration, from the dataclasses of its settings, for editors to complete the YAML.

A schema sees one value at a time: the rules between fields are found by ``rqa validate`` and ``rqa train`` alone.
"""

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from model_hub_rqa.config.datasets import SPLITS, NamedDatasetKwargs
from model_hub_rqa.config.experiment import KEYS
from model_hub_rqa.config.fields import init_fields, is_required, is_secret, kinds_of, names_of, rule_of
from model_hub_rqa.config.flags import DATA, HYPERPARAMETERS
from model_hub_rqa.config.interpolation import COUNTED, SPECIFICATIONS

Schema = dict[str, Any]

_TEXT = {"type": "string", "pattern": r"\S"}
_TYPES: Mapping[Any, Schema] = {
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    str: _TEXT,
    list: {"type": "array", "minItems": 1},
    dict: {"type": "object"},
    Mapping: {"type": "object"},
}
_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
_REFERENCE = {"type": "string", "pattern": r"\$\{|^\?\?\?$"}
_METRIC = {
    "type": "object",
    "properties": {"metric": _TEXT, "smaller_is_better": {"type": "boolean"}},
    "description": "the metric that chooses the best checkpoint, and how hyperparameters are searched",
}


def json_schema(settings: Iterable[type], variables: Mapping[str, Collection[str]] | None = None) -> Schema:
    """The schema (JSON Schema, draft 2020-12) of a configuration.

    Args:
        settings: the dataclasses of the tasks' settings, which stand under ``data`` or ``hyperparameters``. A name that
            several of them have takes what any of them takes.
        variables: further names that are right, by section; "" is the top.
    """
    tasks, own = list(settings), variables or {}
    data = _properties([*DATA, *tasks])
    for split in SPLITS:
        entry = _object(_properties([NamedDatasetKwargs]), required=("name",))
        data[split]["anyOf"] = [_TEXT, {"type": "array", "minItems": 1, "items": {"anyOf": [_TEXT, entry]}}, *_UNSET]
    unnamed = {name: value for name, value in _properties([NamedDatasetKwargs]).items() if name != "name"}
    # in one piece, so that an editor underlines the entry that is wrong
    named = {"additionalProperties": {**_object(unnamed), "type": ["object", "null"]}}
    data["datasets"].pop("anyOf")
    data["datasets"] |= {"type": ["object", "null", "string"], "pattern": _REFERENCE["pattern"], **named}
    searched = _properties([*HYPERPARAMETERS, *tasks], {"$ref": "#/$defs/search"})
    hyperparameters = _object(searched, own.get("hyperparameters", ()))
    sizes = ("global_batch_size", "per_device_train_batch_size")
    hyperparameters["anyOf"] = [{"required": [name]} for name in sizes]
    top: Schema = {
        **{key: {} for key in KEYS},
        "name": {"description": "of the run, and of its folder", **_TEXT},
        "entrypoint": {
            "description": "module:Class of the trial, or a script with --trial",
            "type": ["string", "array"],
        },
        "data": _object(data, own.get("data", ())),
        "hyperparameters": hyperparameters,
        "searcher": _METRIC,
        "checkpoint_policy": {"enum": ["best", "all", "none"], "default": "best"},
    }
    required = ("entrypoint", "data", "hyperparameters")
    definitions = {"reference": _REFERENCE, "search": {"oneOf": [_specification(kind) for kind in SPECIFICATIONS]}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "An experiment configuration of model_hub_rqa",
        **_object(top, own.get("", ()), required),
        "$defs": definitions,
    }


_UNSET = ({"type": "null"}, {"$ref": "#/$defs/reference"})


def _object(properties: Schema, variables: Iterable[str] = (), required: Iterable[str] = ()) -> Schema:
    known = {**{name: {} for name in variables}, **properties}
    return {"type": "object", "properties": known, "required": list(required), "additionalProperties": False}


def _properties(kinds: Iterable[type], *more: Schema) -> Schema:
    """The fields of dataclasses under all their names; the first of one name describes it.

    Args:
        kinds: the dataclasses.
        more: what every field takes beside its own values.
    """
    found: Schema = {}
    for kind in kinds:
        types = kinds_of(kind)
        for field in init_fields(kind):
            for name in names_of(field):
                made = _property(field, types[field.name], *more)
                if name != field.name:
                    made["description"] = f"the same as {field.name}: {made['description']}"
                taken = found.setdefault(name, made)
                taken["anyOf"] += [one for one in made["anyOf"] if one not in taken["anyOf"]]
    return found


def _property(field: "dataclasses.Field[Any]", kinds: tuple[type, ...], *more: Schema) -> Schema:
    made: Schema = {"description": field.metadata.get("help", ""), "anyOf": [*_values(field, kinds), *more]}
    plain = isinstance(field.default, str | int | float | bool)
    if plain and not is_required(field) and not is_secret(field):
        made["default"] = field.default
    return made


def _values(field: "dataclasses.Field[Any]", kinds: tuple[type, ...]) -> list[Schema]:
    """What a field takes, each a schema: its types under its rule, null where it may be unset, a reference."""
    if any(kind not in _TYPES for kind in kinds):
        return [{}]
    rule = rule_of(field)
    if rule.choices:
        # YAML 1.1 reads an unquoted no as false
        found: list[Schema] = [{"enum": [*rule.choices, *([False] if "no" in rule.choices else [])]}]
    else:
        bounds = {word: getattr(rule, name) for name, word in _BOUNDS.items() if getattr(rule, name) is not None}
        found = [{**_TYPES[kind], **(bounds if kind in (int, float) else {})} for kind in kinds]
        found = [{"type": "string"} if one == _TEXT and rule.empty else one for one in found]
    unset = [{"type": "null"}] if field.default is None else []
    return [*found, *unset, {"$ref": "#/$defs/reference"}]


def _specification(kind: str) -> Schema:
    """A search specification of one type; its bounds cannot be references."""
    values: dict[str, Schema] = {key: {"type": "number"} for key in SPECIFICATIONS[kind]}
    values |= {
        key: {"type": "array", "minItems": 1} if key == "vals" else {} for key in values if key in ("val", "vals")
    }
    counted = {"count": {"type": "integer"}} if kind in COUNTED else {}
    return _object({"type": {"const": kind}, **values, **counted}, required=("type", *values))
