"""The parsing of settings: types, ranges, rules between fields, and all errors at once."""

from pathlib import Path
from typing import Any

import pytest
from settings_for_tests import errors, parse

from model_hub_rqa.config import (
    MODEL_MODES,
    ConfigKwargs,
    DatasetKwargs,
    LRSchedulerKwargs,
    ModelKwargs,
    OptimizerKwargs,
    TokenizerKwargs,
    TrainerKwargs,
    parse_dict_to_dataclasses,
)
from model_hub_rqa.errors import ConfigError
from model_hub_rqa.tasks.extractive.task import ExtractiveKwargs

NO_NAME = "is required (or config_name, tokenizer_name and model_name one by one)"


@pytest.mark.parametrize(
    ("kind", "name", "given", "read"),
    [
        (TrainerKwargs, "global_batch_size", 16, 16),
        (TrainerKwargs, "global_batch_size", 16.0, 16),
        (TrainerKwargs, "num_train_epochs", 2, 2.0),
        (TrainerKwargs, "num_train_epochs", 0.5, 0.5),
        (TrainerKwargs, "max_steps", -1, -1),
        (TrainerKwargs, "max_steps", 1, 1),
        (OptimizerKwargs, "max_grad_norm", 0, 0.0),
        (TrainerKwargs, "eval_steps", None, None),
        (TrainerKwargs, "bf16", True, True),
        (TrainerKwargs, "seed", 2**32 - 1, 2**32 - 1),
        (TrainerKwargs, "model_mode", "next-sentence", "next-sentence"),
        (OptimizerKwargs, "learning_rate", 0, 0.0),
        (OptimizerKwargs, "learning_rate", 1e-4, 1e-4),
        (OptimizerKwargs, "adam_beta1", 0, 0.0),
        (LRSchedulerKwargs, "warmup_ratio", 1, 1.0),
        (LRSchedulerKwargs, "lr_scheduler_kwargs", {"num_cycles": 2}, {"num_cycles": 2}),
        (ModelKwargs, "token", True, True),
        (ModelKwargs, "token", "hf_x", "hf_x"),
        (ModelKwargs, "cache_dir", Path("here"), "here"),
        (DatasetKwargs, "validation_split_percentage", 5, 5.0),
        (ExtractiveKwargs, "null_score_diff_threshold", -2, -2.0),
    ],
)
def test_a_value_becomes_the_type_of_its_field(kind: type, name: str, given: Any, read: Any) -> None:
    """Ints and floats are taken for one another where nothing is lost; other values stay as they are."""
    value = getattr(parse(kind, **{name: given}), name)
    assert value == read
    assert type(value) is type(read)


@pytest.mark.parametrize(
    ("kind", "name", "value", "rule"),
    [
        (TrainerKwargs, "global_batch_size", 2.5, "must be a whole number, got 2.5"),
        (TrainerKwargs, "global_batch_size", True, "must be a whole number, got true"),
        (TrainerKwargs, "global_batch_size", "2", "must be a whole number, got '2': write 2 without quotes"),
        (TrainerKwargs, "global_batch_size", None, "must be a whole number, got null"),
        (TrainerKwargs, "global_batch_size", 0, "must be >= 1, got 0"),
        (TrainerKwargs, "eval_steps", 0, "must be >= 1, got 0"),
        (TrainerKwargs, "max_steps", -2, "must be >= -1, got -2"),
        (TrainerKwargs, "num_train_epochs", -1, "must be >= 0, got -1"),
        (TrainerKwargs, "num_train_epochs", False, "must be a number, got false"),
        (OptimizerKwargs, "max_grad_norm", float("inf"), "must be a finite number, got inf"),
        (TrainerKwargs, "seed", 2**32, "must be >= 0 and < 4294967296, got 4294967296"),
        (TrainerKwargs, "bf16", 1, "must be true or false, got 1"),
        (TrainerKwargs, "bf16", "true", "must be true or false, got 'true'"),
        (
            TrainerKwargs,
            "model_mode",
            "sequence-classifier",
            f"must be one of {', '.join(MODEL_MODES)}, got 'sequence-classifier': "
            "did you mean sequence-classification?",
        ),
        (OptimizerKwargs, "learning_rate", -1, "must be >= 0, got -1"),
        (OptimizerKwargs, "learning_rate", float("nan"), "must be a finite number, got nan"),
        (OptimizerKwargs, "learning_rate", 10**400, f"must be a finite number, got 1{'0' * 76}..."),
        (OptimizerKwargs, "learning_rate", None, "must be a number, got null"),
        (
            OptimizerKwargs,
            "learning_rate",
            "1e-4",
            "must be a number, got '1e-4': PyYAML reads it as text, write 1.0e-4",
        ),
        (
            OptimizerKwargs,
            "learning_rate",
            "1.5e5",
            "must be a number, got '1.5e5': PyYAML reads it as text, write 1.5e+5",
        ),
        (OptimizerKwargs, "learning_rate", "small", "must be a number, got 'small'"),
        (OptimizerKwargs, "learning_rate", "nan", "must be a number, got 'nan'"),
        (
            OptimizerKwargs,
            "learning_rate",
            {"type": "const", "val": 1},
            "must be a number, got {'type': 'const', 'val': 1}: "
            "a search specification is resolved by resolve_search_specs",
        ),
        (OptimizerKwargs, "adam_beta1", 1, "must be >= 0 and < 1, got 1"),
        (OptimizerKwargs, "adam_beta2", -0.1, "must be >= 0 and < 1, got -0.1"),
        (OptimizerKwargs, "warmup_init", True, "must be false where relative_step is false, got true"),
        (LRSchedulerKwargs, "warmup_ratio", 1.1, "must be >= 0 and <= 1, got 1.1"),
        (LRSchedulerKwargs, "lr_scheduler_kwargs", [1], "must be a mapping, got [1]"),
        (
            LRSchedulerKwargs,
            "lr_scheduler_kwargs",
            {"min_lr": "1e-6"},
            "must be a mapping with a number at min_lr, got {'min_lr': '1e-6'}: PyYAML reads it as text, write 1.0e-6",
        ),
        (ModelKwargs, "revision", 1.0, "must be text that is not empty, got 1.0"),
        (ModelKwargs, "cache_dir", " ", "must be text that is not empty, got ' '"),
        (
            ModelKwargs,
            "dtype",
            "float64",
            "must be one of auto, float32, bfloat16, float16, got 'float64': did you mean float16?",
        ),
        (ModelKwargs, "token", 12345, "must be true or false or text that is not empty, got a value of type int"),
        (ConfigKwargs, "num_labels", 0, "must be >= 1, got 0"),
        (DatasetKwargs, "validation_split_percentage", 0, "must be > 0 and < 100, got 0"),
        (DatasetKwargs, "validation_split_percentage", 100, "must be > 0 and < 100, got 100"),
        (DatasetKwargs, "max_train_samples", 0, "must be >= 1, got 0"),
        (DatasetKwargs, "on_bad_record", "drop", "must be one of error, skip, got 'drop'"),
        (ExtractiveKwargs, "doc_stride", 384, "must be < max_seq_length (384), got 384"),
        (ExtractiveKwargs, "n_best_size", 0, "must be >= 1, got 0"),
    ],
)
def test_a_value_that_breaks_a_rule_is_named(kind: type, name: str, value: Any, rule: str) -> None:
    """The error names section and field, the rule, and the value found, except for a secret one."""
    assert errors(kind, **{name: value}) == (f"hyperparameters.{name}: {rule}",)


@pytest.mark.parametrize(
    ("kind", "args", "expected"),
    [
        (TrainerKwargs, {"bf16": True, "fp16": True}, "fp16: must not be true together with bf16, got true"),
        (
            OptimizerKwargs,
            {"adafactor": True, "optim": "adamw_torch"},
            "optim: must be adafactor where adafactor is true, got 'adamw_torch'",
        ),
        (
            LRSchedulerKwargs,
            {"lr_scheduler_type": "cosine_with_min_lr"},
            "lr_scheduler_kwargs: cosine_with_min_lr needs one of min_lr and min_lr_rate, got none",
        ),
        (
            LRSchedulerKwargs,
            {"lr_scheduler_type": "cosine_warmup_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 0, "min_lr_rate": 0}},
            "lr_scheduler_kwargs: cosine_warmup_with_min_lr needs one of min_lr and min_lr_rate, "
            "got min_lr and min_lr_rate",
        ),
        (
            LRSchedulerKwargs,
            {"lr_scheduler_type": "warmup_stable_decay"},
            "lr_scheduler_kwargs: warmup_stable_decay needs num_decay_steps, got none",
        ),
        (
            LRSchedulerKwargs,
            {"lr_scheduler_type": "constant", "lr_scheduler_kwargs": {"num_cycles": 1}},
            "lr_scheduler_kwargs: constant takes none, got {'num_cycles': 1}",
        ),
        (DatasetKwargs, {"validation_file": "v"}, "validation_file: needs train_file beside it"),
        (DatasetKwargs, {"dataset_name": None}, "dataset_name: is required where train_file is not given"),
        (
            DatasetKwargs,
            {"dataset_name": None, "train_file": "t"},
            "validation_file: is required beside train_file (or validation_split_percentage)",
        ),
        (
            ConfigKwargs,
            {"config_overrides": {"model_type": "bert"}},
            "config_overrides: model_type makes a config from scratch, "
            "but pretrained_model_name_or_path is given as well",
        ),
        (ConfigKwargs, {"pretrained_model_name_or_path": None}, f"pretrained_model_name_or_path: {NO_NAME}"),
        (TokenizerKwargs, {"pretrained_model_name_or_path": None}, f"pretrained_model_name_or_path: {NO_NAME}"),
        (ModelKwargs, {"pretrained_model_name_or_path": None}, f"pretrained_model_name_or_path: {NO_NAME}"),
    ],
)
def test_a_rule_between_fields_is_held(kind: type, args: dict[str, Any], expected: str) -> None:
    """What does not go together is an error, named at one of the fields."""
    assert errors(kind, **args) == tuple(f"hyperparameters.{line}" for line in expected.split("\n"))


@pytest.mark.parametrize(
    ("kind", "args"),
    [
        (DatasetKwargs, {"dataset_name": None, "train_file": "t", "validation_file": "v"}),
        (DatasetKwargs, {"dataset_name": None, "train_file": "t", "validation_split_percentage": 10}),
        (DatasetKwargs, {"train_file": "t", "validation_file": "v"}),  # beside a dataset_name: files win
        (ConfigKwargs, {"pretrained_model_name_or_path": None, "config_overrides": {"model_type": "bert"}}),
        (ConfigKwargs, {"pretrained_model_name_or_path": None, "config_name": "c"}),
        (ModelKwargs, {"pretrained_model_name_or_path": None, "use_pretrained_weights": False}),
        (OptimizerKwargs, {"optim": "adafactor", "adafactor": True, "relative_step": True, "warmup_init": True}),
        (LRSchedulerKwargs, {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 0.0}}),
    ],
)
def test_what_goes_together_is_taken(kind: type, args: dict[str, Any]) -> None:
    """The rules between fields let the right combinations through."""
    assert isinstance(parse(kind, **args), kind)


def test_all_errors_of_all_types_come_at_once() -> None:
    """One error has the errors of single fields and of rules between fields, from every type, each once."""
    args = {"learning_rate": -1, "warmup_ratio": 2, "bf16": True, "fp16": True, "max_seq_length": 64}
    types = (OptimizerKwargs, LRSchedulerKwargs, ConfigKwargs, TokenizerKwargs, TrainerKwargs, ExtractiveKwargs)
    with pytest.raises(ConfigError, match=r"^here\.learning_rate: must be >= 0, got -1") as caught:
        parse_dict_to_dataclasses(types, args, section="here")
    assert caught.value.errors == (
        "here.learning_rate: must be >= 0, got -1",
        "here.warmup_ratio: must be >= 0 and <= 1, got 2",
        f"here.pretrained_model_name_or_path: {NO_NAME}",
        "here.global_batch_size: is required",
        "here.fp16: must not be true together with bf16, got true",
        "here.doc_stride: must be < max_seq_length (64), got 128",
    )


def test_a_rule_is_silent_where_one_of_its_fields_is_at_error() -> None:
    """An error is not reported twice: the rule is not applied to a default that stands in for a bad value."""
    assert errors(ExtractiveKwargs, max_seq_length="512", doc_stride=400) == (
        "hyperparameters.max_seq_length: must be a whole number, got '512': write 512 without quotes",
    )


@pytest.mark.parametrize("args", [None, [1], "text"])
def test_a_section_that_is_no_mapping_is_a_error(args: Any) -> None:
    """An empty or misplaced section of the YAML is named."""
    with pytest.raises(ConfigError, match=r"^data: must be a mapping, got "):
        parse_dict_to_dataclasses((DatasetKwargs,), args, section="data")
