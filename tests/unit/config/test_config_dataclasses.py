"""The settings' dataclasses by hand, by properties, and held to transformers."""

import contextlib
import dataclasses
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from settings_for_tests import LEAST, errors, parse

from model_hub_rqa.config import (
    LR_SCHEDULER_TYPES,
    MODEL_MODES,
    ConfigKwargs,
    HubKwargs,
    Kwargs,
    LRSchedulerKwargs,
    ModelKwargs,
    OptimizerKwargs,
    TrainerKwargs,
    option,
    parse_dict_to_dataclasses,
)
from model_hub_rqa.config.fields import rule_of
from model_hub_rqa.config.parsing import ALL_KWARGS
from model_hub_rqa.errors import ConfigError
from model_hub_rqa.tasks.extractive.task import ExtractiveKwargs


def test_a_dataclass_built_by_hand_checks_itself() -> None:
    """The constructor reads values like parsing does, and raises every error at once."""
    assert ExtractiveKwargs(doc_stride=64).doc_stride == 64
    assert type(OptimizerKwargs(weight_decay=1).weight_decay) is float
    with pytest.raises(ConfigError, match=r"^ExtractiveKwargs\.n_best_size: must be >= 1") as caught:
        ExtractiveKwargs(doc_stride=400, n_best_size=0)
    assert caught.value.errors == (
        "ExtractiveKwargs.n_best_size: must be >= 1, got 0",
        "ExtractiveKwargs.doc_stride: must be < max_seq_length (384), got 400",
    )


def test_a_changed_copy_is_checked_again() -> None:
    """The dataclasses are frozen; dataclasses.replace makes a new one, under the same rules."""
    settings = LRSchedulerKwargs()
    assert dataclasses.replace(settings, num_training_steps=10).num_training_steps == 10
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'warmup_steps'"):
        settings.warmup_steps = 3  # type: ignore[misc]  # that is what is tested
    with pytest.raises(ConfigError, match="num_training_steps"):
        dataclasses.replace(settings, num_training_steps=0)


def test_a_token_is_never_shown() -> None:
    """The token is left out of repr."""
    assert "hf_secret" not in repr(parse(ModelKwargs, token="hf_secret"))


def test_every_field_has_a_line_of_help() -> None:
    """The metadata of every field says what it is."""
    for kind in ALL_KWARGS:
        for field in fields(kind):
            assert field.metadata["help"].strip(), f"{kind.__name__}.{field.name}"
            assert "\n" not in field.metadata["help"]


def test_nothing_is_shared_with_the_arguments() -> None:
    """A mapping in a field is a copy, and so is the one in as_dict."""
    inner = {"rope": {"factor": 2}}
    settings = parse(ConfigKwargs, config_overrides=inner)
    inner["rope"]["factor"] = 3
    settings.as_dict()["config_overrides"]["rope"]["factor"] = 4
    assert settings.config_overrides == {"rope": {"factor": 2}}


def test_a_subclass_adds_fields_and_rules() -> None:
    """A task's own settings are a dataclass on top of the package's, parsed with the same errors."""

    @dataclass(frozen=True, kw_only=True)
    class MyKwargs(ExtractiveKwargs):
        passages: int = option(10, ge=1, help="passages of a question")

    assert parse(MyKwargs, passages=3, doc_stride=64).as_dict()["passages"] == 3
    assert errors(MyKwargs, passages=0, doc_stride=400) == (
        "hyperparameters.passages: must be >= 1, got 0",
        "hyperparameters.doc_stride: must be < max_seq_length (384), got 400",
    )


def test_a_plain_dataclass_is_filled_as_well() -> None:
    """A dataclass of one's own needs no base: its types are checked, types unknown here are taken as they are."""

    @dataclass
    class Own:
        rate: float
        tags: list[str] = dataclasses.field(default_factory=list)
        name: str | None = None

    args = {"rate": 1, "tags": ["a"]}
    assert parse_dict_to_dataclasses((Own,), args) == [Own(rate=1.0, tags=["a"])]
    assert parse_dict_to_dataclasses((Own,), args, as_dict=True) == [{"rate": 1.0, "tags": ["a"]}]
    assert errors(Own, rate="x") == ("hyperparameters.rate: must be a number, got 'x'",)


# ---- properties ----

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["1e-4", "linear", "float32", "error"]),
    st.dictionaries(st.text(max_size=3), st.one_of(st.integers(), st.lists(st.integers(), max_size=2)), max_size=2),
)
NAMES = sorted(
    {field.name for kind in ALL_KWARGS for field in fields(kind)} | {"use_auth_token", "num_warmup_steps", "x"}
)


@given(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=8))
def test_parsing_changes_nothing_and_raises_only_config_errors(args: dict[str, Any]) -> None:
    """Whatever is given, the arguments stay as they were and an error is a ConfigError."""
    before = repr(args)
    with contextlib.suppress(ConfigError):
        parse_dict_to_dataclasses(ALL_KWARGS, args)
    assert repr(args) == before


def _good_values(field: "dataclasses.Field[Any]") -> st.SearchStrategy[Any]:
    rule = rule_of(field)
    if rule.choices:
        return st.sampled_from(rule.choices)
    if isinstance(field.default, bool):
        return st.booleans()
    if isinstance(field.default, float):
        return st.floats(0.01, 0.99)
    if isinstance(field.default, int) or rule.ge is not None:
        return st.integers(200, 300) if field.name == "max_seq_length" else st.integers(1, 100)
    if field.name.endswith(("kwargs", "overrides")):
        return st.just({"num_cycles": 1}) if field.name.endswith("kwargs") else st.just({"dropout": 0.0})
    return st.floats(1, 99) if field.name == "validation_split_percentage" else st.just("text")


@st.composite
def good_args(draw: st.DrawFn, kind: type[Kwargs]) -> dict[str, Any]:
    """Arguments of one dataclass that break no rule of a single field."""
    args = {field.name: draw(_good_values(field)) for field in fields(kind) if draw(st.booleans())}
    return {**LEAST.get(kind, {}), **args}


@pytest.mark.parametrize("kind", ALL_KWARGS)
@given(data=st.data())
def test_parsing_a_parsed_dict_gives_it_again(kind: type[Kwargs], data: st.DataObject) -> None:
    """parse(as_dict) is a fixed point, and an instance carries the same values."""
    args = data.draw(good_args(kind))
    try:
        [once] = parse_dict_to_dataclasses((kind,), args, as_dict=True)
    except ConfigError:
        return  # a rule between fields, which the strategy does not know
    assert parse_dict_to_dataclasses((kind,), once, as_dict=True) == [once]
    [instance] = parse_dict_to_dataclasses((kind,), args)
    model_hubs = ("cache_dir", "use_auth_token", "token", "trust_remote_code") if issubclass(kind, HubKwargs) else ()
    plain = {name: value for name, value in instance.as_dict().items() if name not in model_hubs}
    assert {name: value for name, value in once.items() if name not in model_hubs} == plain
    if not issubclass(kind, HubKwargs):
        assert kind(**once) == instance


# ---- held to transformers, without importing it ----


def test_the_lists_are_those_of_transformers() -> None:
    """Scheduler types and Auto classes are listed by hand; transformers has the same."""
    import transformers

    assert set(LR_SCHEDULER_TYPES) == {kind.value for kind in transformers.SchedulerType}
    assert all(hasattr(transformers, name) for name in MODEL_MODES.values())


@pytest.mark.parametrize("name", ["learning_rate", "weight_decay", "num_train_epochs", "max_steps", "max_grad_norm"])
def test_names_and_defaults_are_those_of_training_arguments(name: str) -> None:
    """A field that TrainingArguments has as well has the same default."""
    import transformers

    ours = {field.name: field.default for kind in (OptimizerKwargs, TrainerKwargs) for field in fields(kind)}
    theirs = {field.name: field.default for field in fields(transformers.TrainingArguments)}
    assert ours[name] == theirs[name]


def test_importing_config_is_light() -> None:
    """Neither torch nor transformers nor numpy is loaded to check a configuration."""
    code = "import sys, model_hub_rqa.config; print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"
