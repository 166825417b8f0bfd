"""Search specifications that reach a trial unresolved."""

import copy
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_hub_rqa.config import resolve_search_specs
from model_hub_rqa.errors import ConfigError


@pytest.mark.parametrize(
    ("spec", "value"),
    [
        ({"type": "const", "val": 3}, 3),
        ({"type": "const", "val": {"type": "x", "a": [1]}}, {"type": "x", "a": [1]}),
        ({"type": "const", "val": None}, None),
        ({"type": "int", "minval": 1, "maxval": 4}, 2),
        ({"type": "int", "minval": -4, "maxval": -1}, -3),
        ({"type": "int", "minval": 2.0, "maxval": 2.0, "count": 3}, 2),
        ({"type": "double", "minval": 0, "maxval": 0.5}, 0.25),
        ({"type": "double", "minval": 1e308, "maxval": 1.5e308}, 1.25e308),
        ({"type": "log", "minval": -5, "maxval": -3, "base": 10}, 1e-4),
        ({"type": "log", "minval": 1, "maxval": 2, "base": 4.0}, 8.0),
        ({"type": "categorical", "vals": ["b", "a"]}, "b"),
        ({"type": "categorical", "vals": [{"k": 1}, 2]}, {"k": 1}),
        # No specifications: a type that is none of the five, a type that is no text, no type.
        ({"type": "linear", "factor": 2.0}, {"type": "linear", "factor": 2.0}),
        ({"type": 3}, {"type": 3}),
        ({"type": {"type": "const", "val": "int"}}, {"type": "int"}),
        ({"a": {"b": {"type": "const", "val": 1}, "c": 2}}, {"a": {"b": 1, "c": 2}}),
        ([{"type": "const", "val": 1}], [{"type": "const", "val": 1}]),
        (7, 7),
    ],
)
def test_a_specification_becomes_its_documented_value(spec: Any, value: Any) -> None:
    """Each kind has one fixed value, and what is no specification stays."""
    resolved = resolve_search_specs({"x": spec})["x"]
    assert resolved == (pytest.approx(value) if isinstance(value, float) else value)
    assert type(resolved) is type(value)


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        ({"type": "const"}, "a search specification of type const needs val"),
        ({"type": "int", "minval": 1}, "a search specification of type int needs maxval"),
        ({"type": "int", "minval": 1, "maxval": 2, "base": 3}, "a search specification of type int has no base"),
        ({"type": "int", "minval": 3, "maxval": 2}, "minval must be <= maxval (2), got 3"),
        ({"type": "int", "minval": 1.5, "maxval": 2}, "minval must be a whole number, got 1.5"),
        ({"type": "double", "minval": "1e-4", "maxval": 1}, "minval must be a finite number, got '1e-4'"),
        ({"type": "double", "minval": 0, "maxval": float("inf")}, "maxval must be a finite number, got inf"),
        ({"type": "double", "minval": False, "maxval": 1}, "minval must be a finite number, got false"),
        ({"type": "log", "minval": -5, "maxval": -3}, "a search specification of type log needs base"),
        ({"type": "log", "minval": -5, "maxval": -3, "base": 0}, "base must be > 0, got 0"),
        (
            {"type": "log", "minval": 400, "maxval": 400, "base": 10},
            "base to the exponents is beyond a float, got {'type': 'log', 'minval': 400, 'maxval': 400, 'base': 10}",
        ),
        ({"type": "categorical", "vals": []}, "vals must be a list of values, got []"),
        ({"type": "categorical", "vals": "ab"}, "vals must be a list of values, got 'ab'"),
    ],
)
def test_a_malformed_specification_is_named(spec: dict[str, Any], error: str) -> None:
    """The error names the hyperparameter, at any depth."""
    with pytest.raises(ConfigError, match=re.escape(error)) as caught:
        resolve_search_specs({"outer": {"x": spec}})
    assert caught.value.errors == (f"hyperparameters.outer.x: {error}",)


def test_all_malformed_specifications_come_at_once() -> None:
    """One error has the errors of every hyperparameter."""
    with pytest.raises(ConfigError, match=r"^here\.a: a search specification of type const needs val") as caught:
        resolve_search_specs({"a": {"type": "const"}, "b": {"type": "log"}, "c": 1}, section="here")
    assert [line.split(":")[0] for line in caught.value.errors] == ["here.a", "here.b", "here.b", "here.b"]


NUMBERS = st.integers(-1000, 1000)
SPECS = st.one_of(
    st.builds(lambda value: {"type": "const", "val": value}, st.one_of(NUMBERS, st.text(), st.lists(NUMBERS))),
    st.builds(lambda low, more: {"type": "int", "minval": low, "maxval": low + abs(more)}, NUMBERS, NUMBERS),
    st.builds(lambda low, more: {"type": "double", "minval": low, "maxval": low + abs(more)}, NUMBERS, NUMBERS),
    st.builds(lambda values: {"type": "categorical", "vals": values}, st.lists(NUMBERS, min_size=1)),
)


@given(
    st.dictionaries(st.text(), st.recursive(SPECS, lambda inner: st.dictionaries(st.just("k"), inner), max_leaves=4))
)
def test_resolving_is_final_and_changes_nothing(hparams: dict[str, Any]) -> None:
    """What is resolved has no specification left, lies in its range, and the arguments stay as they were."""
    before = copy.deepcopy(hparams)
    resolved = resolve_search_specs(hparams)
    assert hparams == before
    assert resolve_search_specs(resolved) == resolved
    for name, spec in hparams.items():
        if spec.get("type") in ("int", "double"):
            assert spec["minval"] <= resolved[name] <= spec["maxval"]
