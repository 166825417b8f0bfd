"""The checker of experiment configurations itself: a table of right and wrong values for each keyword."""

from typing import Any

import pytest
from expconf import BASE, Schemas, experiment_errors, fits, master_errors, rungs, with_cluster

LESS = {"compareProperties": {"type": "a<b", "a": "low", "b": "in.high"}}
AT_MOST = {"compareProperties": {"type": "a<=b", "a": "low", "b": "high"}}
INSIDE = {"compareProperties": {"type": "a_is_subdir_of_b", "a": "sub", "b": "host"}}
PETS = {
    "union": {
        "defaultMessage": "is no pet",
        "items": [
            {
                "unionKey": "const:type=cat",
                "type": "object",
                "required": ["type", "lives"],
                "properties": {"type": {"const": "cat"}},
            },
            {
                "unionKey": "const:type=dog",
                "type": "object",
                "required": ["type", "tail"],
                "properties": {"type": {"const": "dog"}},
            },
            {"unionKey": "never", "type": "string"},
        ],
    }
}
OVERLAPPING = {"union": {"items": [{"unionKey": "never", "minimum": 1}, {"unionKey": "never", "maximum": 9}]}}
CHECKED = {
    "checks": {"must be absolute": {"pattern": "^/"}, "must be short": {"not": {"type": "string", "pattern": "...."}}}
}
FORBIDDEN = {"disallowProperties": {"image": "set it elsewhere"}}
IF_CAT = {"if": {"properties": {"type": {"const": "cat"}}}, "then": {"required": ["lives"]}, "else": {"type": "array"}}

# schema, values that it takes, values that it refuses
TABLE: list[tuple[Any, list[Any], list[Any]]] = [
    (True, [None, 1, {}], []),
    (False, [], [None, 1, {}]),
    ({"type": "integer"}, [1, -3, 1.0], [1.5, True, "1", None, float("inf")]),
    ({"type": "number"}, [1, 1.5], [True, "1", None]),
    ({"type": ["string", "null"]}, ["", None], [1, [], {}]),
    ({"type": "boolean"}, [True, False], [0, 1, None]),
    ({"type": "object"}, [{}], [[], None]),
    ({"type": "array"}, [[]], [{}, "ab"]),
    ({"enum": ["a", None, 1]}, ["a", None, 1, 1.0], ["b", True, False]),
    ({"const": "a"}, ["a"], ["b", None]),
    ({"minimum": 1}, [1, 2, "text", None], [0, 0.9]),
    ({"maximum": 1}, [1, 0, "text"], [1.1, 2]),
    ({"exclusiveMinimum": 1}, [1.1, 2, None], [1, 0]),
    ({"minimum": 1, "maximum": 3}, [1, 3], [0, 4]),
    ({"pattern": "^a+$"}, ["a", "aa", 7, None], ["", "ab"]),
    ({"minLength": 1}, ["a", [], 0], [""]),  # of text only: an empty list passes, in Determined as well
    ({"required": ["a"]}, [{"a": 1}, {"a": None}, []], [{}, {"b": 1}]),
    ({"properties": {"a": {"type": "null"}}}, [{}, {"a": None}, {"b": 1}], [{"a": 1}]),
    ({"properties": {"a": False}}, [{}, {"b": 1}], [{"a": 1}, {"a": None}]),
    ({"additionalProperties": False, "properties": {"a": True}}, [{}, {"a": 1}, 5], [{"b": 1}]),
    ({"additionalProperties": {"type": "null"}, "properties": {"a": True}}, [{"a": 1, "b": None}], [{"b": 1}]),
    ({"items": {"type": "string"}}, [[], ["a"], "text", {}], [[1], ["a", None]]),
    ({"not": {"type": "null"}}, [1], [None]),
    ({"allOf": [{"minimum": 1}, {"maximum": 2}]}, [1, 2], [0, 3]),
    ({"anyOf": [{"const": 1}, {"const": 2}]}, [1, 2], [3]),
    ({"oneOf": [{"minimum": 1}, {"maximum": 2}]}, [0, 3], [1, 2]),
    (IF_CAT, [{"type": "cat", "lives": 9}, []], [{"type": "cat"}, {}, {"type": "dog"}]),
    ({"$ref": BASE + "text.json"}, ["a"], [None, 1]),
    ({"$ref": BASE + "text.json", "const": "a"}, ["b"], [None]),  # draft 7 ignores what stands beside a $ref
    ({"optionalRef": BASE + "text.json"}, ["a", None], [1, {}]),
    ({"optionalRef": BASE + "text.json", "type": "string"}, ["a"], [None, 1]),  # but not beside an optionalRef
    (PETS, [{"type": "cat", "lives": 9}, {"type": "dog", "tail": 1}, "fish"], [{}, {"type": "cat"}, 1, None]),
    (OVERLAPPING, [0, 10], [1, 9]),
    (CHECKED, ["/ab", "/"], ["ab", "/abc", "abcd"]),
    (
        LESS,
        [{"low": 1, "in": {"high": 2}}, {"low": 1}, {"low": "b", "in": {"high": 1}}],
        [{"low": 2, "in": {"high": 2}}],
    ),
    (AT_MOST, [{"low": 1, "high": 1}, {"low": 2, "high": None}, 7], [{"low": 1.5, "high": 1}]),
    (INSIDE, [{"sub": "/a/b", "host": "/a"}, {"sub": "b", "host": "/a"}, {"sub": None}], [{"sub": "/b", "host": "/a"}]),
    (INSIDE, [{"sub": "a/../b", "host": "/a"}], [{"sub": "../b", "host": "/a"}, {"sub": "a/../../b", "host": "/a"}]),
    (FORBIDDEN, [{}, {"name": 1}, []], [{"image": 1}, {"image": None}]),
    ({"eventuallyRequired": ["a"]}, [{}, {"a": None}, 3], []),
    ({"eventually": {"type": "string"}}, ["a", 1], []),
]
# the same in the second pass, where what is eventually required is required
COMPLETE: list[tuple[Any, list[Any], list[Any]]] = [
    ({"eventuallyRequired": ["a"]}, [{"a": 0}, {"a": False}, 3], [{}, {"a": None}]),
    ({"eventually": {"type": "string"}}, ["a"], [1]),
    ({"properties": {"a": {"eventuallyRequired": ["b"]}}}, [{}, {"a": {"b": 1}}], [{"a": {}}]),
    ({"oneOf": [{"eventuallyRequired": ["a"]}, {"eventuallyRequired": ["b"]}]}, [{"a": 1}], [{}, {"a": 1, "b": 1}]),
]


def schemas_of(schema: Any) -> Schemas:
    text = {"$id": BASE + "text.json", "type": "string"}
    return Schemas([text, {"$id": BASE + "it.json", "allOf": [schema]}])


@pytest.mark.parametrize(
    ("schema", "right", "wrong", "complete"),
    [*((*row, False) for row in TABLE), *((*row, True) for row in COMPLETE)],
    ids=[str(row[0])[:40] for row in [*TABLE, *COMPLETE]],
)
def test_keywords(schema: Any, right: list[Any], wrong: list[Any], complete: bool) -> None:
    """Each keyword takes what is right, refuses what is wrong, and passes over types that it does not speak of."""
    schemas = schemas_of(schema)
    assert [value for value in right if schemas.errors(value, "it.json", complete=complete)] == []
    assert [value for value in wrong if not schemas.errors(value, "it.json", complete=complete)] == []


@pytest.mark.parametrize(
    ("key", "meant", "not_meant"),
    [
        ("always", [{}, None, 1], []),
        ("never", [], [{}, None, 1]),
        ("const:type=cat", [{"type": "cat"}], [{"type": "dog"}, {}, "cat", {"type": 1}]),
        ("const:rule=a=b", [{"rule": "a=b"}], [{"rule": "a"}]),
        ("singleproperty:a", [{"a": None}], [{}, {"b": 1}, {"a": 1, "b": 1}, "a", ["a"]]),
        ("type:array", [[]], [{}, "a"]),
        ("type:object", [{}], [[], None]),
        ("hasattr:a", [{"a": None, "b": 1}], [{}, "a", ["a"]]),
        ("not:hasattr:a", [{}, "a", []], [{"a": 1}]),
        ("not:type:object", [[], 1], [{}]),
    ],
)
def test_union_keys(key: str, meant: list[Any], not_meant: list[Any]) -> None:
    """A unionKey tells whether a value is meant for its item."""
    assert [value for value in meant if not fits(key, value)] == []
    assert [value for value in not_meant if fits(key, value)] == []


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"type": "dog"}, ["<config>: is no pet", "<config>: tail is required"]),
        ({"type": "cat", "tail": 1}, ["<config>: is no pet", "<config>: lives is required"]),
        ({"type": "fish", "tail": 1}, ["<config>: is no pet"]),
        (7, ["<config>: is no pet"]),
    ],
)
def test_a_union_tells_the_errors_of_the_item_that_was_meant(value: Any, told: list[str]) -> None:
    """Beside the union's message stand the errors of the first item whose unionKey fits, and of no other."""
    assert schemas_of(PETS).errors(value, "it.json") == told


def test_messages_name_the_place() -> None:
    """An error names the path to it; those of checks and disallowProperties are the schema's own words."""
    schema = {"properties": {"a": {"items": {**CHECKED, **FORBIDDEN}}}}
    found = schemas_of(schema).errors({"a": ["/", "x", {"image": 1}]}, "it.json")
    assert found == ["<config>.a[1]: must be absolute", "<config>.a[2].image: set it elsewhere"]


@pytest.mark.parametrize(
    "schema",
    [
        {"conditional": {"when": True}},
        {"properties": {"a": {"uniqueItems": True}}},
        {"union": {"items": [{"unionKey": "never", "maxLength": 1}]}},
        {"checks": {"message": {"contains": True}}},
        {"eventually": {"patternProperties": {}}},
    ],
    ids=str,
)
def test_an_unknown_keyword_is_refused(schema: Any) -> None:
    """A rule that is not understood is never taken for one that holds."""
    with pytest.raises(ValueError, match="is unknown"):
        schemas_of(schema)


@pytest.mark.parametrize("key", ["sometimes", "type:string", "hasprop:a"])
def test_an_unknown_union_key_is_refused(key: str) -> None:
    """So is a unionKey."""
    with pytest.raises(ValueError, match="is unknown"):
        fits(key, {})


def test_the_cluster_fills_what_is_missing() -> None:
    """The second pass is of the configuration over a cluster's settings; nulls count as missing."""
    filled = with_cluster({"name": "mine", "environment": {"image": None, "ports": {}}, "reproducibility": None})
    assert filled["name"] == "mine"
    assert filled["environment"] == {"image": {"cpu": "image", "cuda": "image", "rocm": "image"}, "ports": {}}
    assert filled["reproducibility"] == {"experiment_seed": 0}
    own = with_cluster({"checkpoint_storage": {"type": "directory", "container_path": "/c"}})
    assert own["checkpoint_storage"] == {"type": "directory", "container_path": "/c"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, []),
        ({"entrypoint": None}, ["<config>: entrypoint is required"]),
        ({"resources": {"slots": 2}}, ["<config>.resources: slots is not a known key"]),
        ({"searcher": {"name": "custom"}}, ["<config>.searcher: custom has been removed"]),
        (
            {"searcher": {"name": "async_halving", "max_time": 3}},
            ["<config>.searcher: time_metric is required by async_halving"],
        ),
    ],
)
def test_rules_of_the_master(change: dict[str, Any], told: list[str]) -> None:
    """Beside the schemas stand the rules of the master's code."""
    config = {"entrypoint": "module:Class", "searcher": {"name": "single"}, **change}
    assert master_errors(config) == told


def test_errors_of_the_first_pass_come_alone() -> None:
    """What is wrong in itself is told first, without what may only be missing so far."""
    schema = {"$id": BASE + "experiment.json", "type": "object", "eventuallyRequired": ["labels"]}
    assert experiment_errors(Schemas([schema]), []) == ["<config>: must be object, got []"]  # type: ignore[arg-type]
    assert experiment_errors(Schemas([schema]), {"entrypoint": "a"}) == ["<config>: labels is required"]


@pytest.mark.parametrize(
    ("searcher", "expected"),
    [
        ({"max_time": 256, "max_trials": 1000}, [1, 4, 16, 64, 256]),
        ({"max_time": 1000, "max_trials": 16}, [62, 250, 1000]),  # no more rungs than trials can fill
        ({"max_time": 5, "max_trials": 1000}, [1, 5]),  # nor than there is time for
        ({"max_time": 900, "max_trials": 100, "divisor": 3, "max_rungs": 3}, [100, 300, 900]),
        ({"max_time": 64, "max_trials": 1, "bracket_rungs": [2, 3]}, [4, 16, 64]),
    ],
)
def test_rungs(searcher: dict[str, Any], expected: list[int]) -> None:
    """An early-stopping search decides at max_time over falling powers of the divisor."""
    assert rungs(searcher) == expected
