"""transformers' HfArgumentParser takes the settings' dataclasses as they are."""

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from settings_for_tests import LEAST
from transformers import HfArgumentParser

from model_hub_rqa.config import (
    ConfigKwargs,
    DatasetKwargs,
    Kwargs,
    LRSchedulerKwargs,
    ModelKwargs,
    OptimizerKwargs,
    TokenizerKwargs,
    parse_dict_to_dataclasses,
)
from model_hub_rqa.config.fields import init_fields, names_of, rule_of
from model_hub_rqa.errors import ConfigError
from model_hub_rqa.registry import TASKS


def derived(base: type[Kwargs]) -> Iterator[type[Kwargs]]:
    for kind in base.__subclasses__():
        if kind.__module__.startswith("model_hub_rqa."):
            yield kind
            yield from derived(kind)


TASKS.names()  # imports the tasks, and so their settings
# PassageKwargs has no instances: the longest answer is each task's own.
KINDS = [kind for kind in derived(Kwargs) if kind.__name__ not in ("HubKwargs", "PassageKwargs")]

# What a field asks for beside it.
BESIDE: dict[str, dict[str, Any]] = {
    "warmup_init": {"relative_step": True},
    "temperature": {"do_sample": True},
    "top_p": {"do_sample": True},
    "length_penalty": {"num_beams": 2},
    "early_stopping": {"num_beams": 2},
    "corpus_file": {"embedding_model": "m"},
    "reader_top_k": {"reader": "r"},
    **{key: {"index": "i"} for key in ("rerank", "query_template", "query_rewriter")},
    "rerank_depth": {"index": "i", "rerank": "m"},
    "system_prompt": {"apply_chat_template": True},
    "mixing": {"train": "a"},
    "mixing_temperature": {"train": "a", "mixing": "temperature"},
    "anchor": {"train": "a", "mixing": "keyed"},
    "train_file": {"validation_file": "v"},
    "validation_file": {"train_file": "t"},
}
VALUES: dict[str, Any] = {
    "language": "de",
    "name": "other",
    "max_seq_length": 500,
    "prompt_template": "{question} {context}",
    "passage_template": "{context}",
    "format": "fid",
    "query_template": "{question} {history}",
    **dict.fromkeys(("fusion", "fusion_depth")),  # need a list beside them
}


def simple_value(field: "dataclasses.Field[Any]", kinds: set[Any]) -> Any:
    """A value other than the default that one word says; None where the field takes a mapping, a list or anything."""
    if field.name in VALUES:
        return VALUES[field.name]
    if choices := rule_of(field).choices:
        return next(choice for choice in choices if choice != field.default)
    if str in kinds:
        return "a word"
    if bool in kinds:
        return field.default is not True
    return 9 if int in kinds else 0.25 if float in kinds else None


def cases() -> Iterator[Any]:
    for kind in KINDS:
        for field in init_fields(kind):
            hint = typing.get_type_hints(kind)[field.name]
            value = simple_value(field, {hint, *typing.get_args(hint)})
            if value is not None:
                yield pytest.param(kind, field.name, value, id=f"{kind.__name__}-{field.name}")


CASES = list(cases())


def words(values: Mapping[str, Any]) -> list[str]:
    shown = {True: "true", False: "false"}
    return [
        word
        for name, value in values.items()
        for word in (f"--{name}", shown[value] if isinstance(value, bool) else str(value))
    ]


def parse(kinds: Any, argv: list[str]) -> Any:
    return HfArgumentParser(kinds).parse_args_into_dataclasses(argv, look_for_args_file=False)


def test_the_table_has_every_dataclass_and_nearly_every_field() -> None:
    """All but mappings, lists, and what may be of any type."""
    names = {kind.__name__ for kind in KINDS}
    assert {"DatasetKwargs", "NamedDatasetKwargs", "ExtractiveKwargs", "BeamSearchKwargs", "FusionKwargs"} < names
    tested = {(case.values[0], case.values[1]) for case in CASES}
    rest = {field.name for kind in KINDS for field in init_fields(kind) if (kind, field.name) not in tested}
    assert rest == {
        *("args", "config_overrides", "lr_scheduler_kwargs", "datasets", "template_args", "fields"),
        *("callbacks", "metrics", "fusion", "fusion_depth", "fusion_weights"),
        *("plugins", "collator", "model", "objective"),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_are_those_of_the_dataclass(kind: type[Kwargs]) -> None:
    least = LEAST.get(kind, {})
    assert parse(kind, words(least)) == (kind(**least),)
    assert HfArgumentParser(kind).parse_dict(least) == (kind(**least),)
    help_text = HfArgumentParser(kind).format_help()
    assert all(f"--{name}" in help_text for field in init_fields(kind) for name in names_of(field))


@pytest.mark.parametrize(("kind", "name", "value"), CASES)
def test_a_value_is_read_as_the_package_reads_it(kind: type[Kwargs], name: str, value: Any) -> None:
    """From words and from a mapping."""
    names = {field.name for field in init_fields(kind)}
    beside = {other: needed for other, needed in BESIDE.get(name, {}).items() if other in names}
    given = {**LEAST.get(kind, {}), **beside, name: value}
    (expected,) = parse_dict_to_dataclasses((kind,), given)
    default = next(field.default for field in init_fields(kind) if field.name == name)
    assert getattr(expected, name) == value != default
    for (read,) in (parse(kind, words(given)), HfArgumentParser(kind).parse_dict(given)):
        assert read == expected
        assert type(getattr(read, name)) is type(value)


@pytest.mark.parametrize(
    ("kind", "argv", "expected"),
    [
        (
            ModelKwargs,
            "--model_name_or_path m --torch_dtype auto",
            {"pretrained_model_name_or_path": "m", "dtype": "auto"},
        ),
        (ModelKwargs, "--model_name m --use_auth_token hf_x", {"model_name": "m", "token": "hf_x"}),
        (ModelKwargs, "--token true", {"token": True}),
        (ModelKwargs, "--token false", {"token": False}),
        (ModelKwargs, "--trust-remote-code", {"trust_remote_code": True}),
        (TokenizerKwargs, "--tokenizer-name m --no_use_fast", {"tokenizer_name": "m", "use_fast": False}),
        (LRSchedulerKwargs, "--num_warmup_steps 3", {"warmup_steps": 3}),
    ],
)
def test_other_names_and_forms_of_flags(kind: type[Kwargs], argv: str, expected: dict[str, Any]) -> None:
    assert parse(kind, argv.split(" ")) == (kind(**expected),)


def test_several_dataclasses_at_once() -> None:
    """From words where no two of them share a field, since argparse takes a flag once; from a mapping in any case."""
    argv = [
        "--learning_rate",
        "1e-4",
        "--warmup_steps",
        "3",
        "--train_file",
        "t",
        "--validation_file",
        "v",
        "--n_best_size",
        "5",
    ]
    extractive = next(kind for kind in KINDS if kind.__name__ == "ExtractiveKwargs")
    assert parse((OptimizerKwargs, LRSchedulerKwargs, DatasetKwargs, extractive), argv) == (
        OptimizerKwargs(learning_rate=1e-4),
        LRSchedulerKwargs(warmup_steps=3),
        DatasetKwargs(train_file="t", validation_file="v"),
        extractive(n_best_size=5),
    )
    kinds = (ConfigKwargs, TokenizerKwargs, ModelKwargs, OptimizerKwargs, LRSchedulerKwargs, DatasetKwargs)
    given = {
        **{"pretrained_model_name_or_path": "m", "token": "hf_x", "config_overrides": {"dropout": 0.0}},
        **{"lr_scheduler_kwargs": {"num_cycles": 2}, "train": ["a", "b"], "validation": ["a"], "plugins": ["p"]},
    }
    assert HfArgumentParser(kinds, conflict_handler="resolve").parse_dict(given) == tuple(
        parse_dict_to_dataclasses(kinds, given)
    )


def test_errors_are_the_packages_own() -> None:
    with pytest.raises(ConfigError, match=r"^OptimizerKwargs\.learning_rate: must be >= 0, got -1\.0") as caught:
        parse(OptimizerKwargs, ["--learning_rate=-1", "--optim", "adam"])
    assert caught.value.errors[1] == "OptimizerKwargs.optim: must be one of adamw_torch, adafactor, got 'adam'"
