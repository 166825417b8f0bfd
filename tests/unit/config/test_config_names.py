"""The names of settings: model-hub's, each part's own, unset ones, unknown ones."""

import copy
import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import tiny

from model_hub_rqa.cli import main
from model_hub_rqa.config import (
    CallbackKwargs,
    DatasetKwargs,
    LRSchedulerKwargs,
    ModelKwargs,
    OptimizerKwargs,
    default_parse_config_tokenizer_model_kwargs,
    default_parse_optimizer_lr_scheduler_kwargs,
    parse_dict_to_dataclasses,
    parsing,
)
from model_hub_rqa.config import trainer_names as other_tools
from model_hub_rqa.config.fields import init_fields, names_of
from model_hub_rqa.config.flags import parse_flags
from model_hub_rqa.config.trainer_names import hint_for
from model_hub_rqa.errors import ConfigError
from model_hub_rqa.runtime.experiments import checked, read_config
from model_hub_rqa.tasks.causal_lm.settings import GenerationKwargs
from model_hub_rqa.tasks.fid.settings import FusionKwargs


@pytest.fixture(autouse=True)
def _forget_warnings() -> None:
    parsing._warn_once.cache_clear()


@pytest.mark.parametrize(
    ("kind", "alias", "name", "value"),
    [
        (ModelKwargs, "use_auth_token", "token", True),
        (DatasetKwargs, "use_auth_token", "token", "hf_x"),
        (LRSchedulerKwargs, "num_warmup_steps", "warmup_steps", 7),
    ],
)
def test_model_hubs_names_are_taken(kind: type, alias: str, name: str, value: Any) -> None:
    """A name of model-hub's is read into the field that has replaced it; giving both is an error."""
    least = {"pretrained_model_name_or_path": "m", "dataset_name": "d"}
    [settings] = parse_dict_to_dataclasses((kind,), {**least, alias: value})
    assert getattr(settings, name) == value
    with pytest.raises(ConfigError, match=f"{name}: is given twice, also as {alias}$") as caught:
        parse_dict_to_dataclasses((kind,), {**least, alias: value, name: value})
    assert caught.value.errors == (f"hyperparameters.{name}: is given twice, also as {alias}",)


def test_a_error_speaks_of_the_name_that_was_written() -> None:
    """Under another name of a field, the message has that name."""
    with pytest.raises(ConfigError, match=r"^hyperparameters.num_warmup_steps: must be >= 0, got -1$"):
        parse_dict_to_dataclasses((LRSchedulerKwargs,), {"num_warmup_steps": -1})


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"pretrained_model_name_or_path": "m"}, ("m", "m", "m")),
        ({"pretrained_model_name_or_path": "m", "config_name": "c"}, ("c", "m", "m")),
        ({"pretrained_model_name_or_path": "m", "tokenizer_name": "t"}, ("m", "t", "m")),
        ({"pretrained_model_name_or_path": "m", "model_name": "w"}, ("m", "m", "w")),
        ({"config_name": "c", "tokenizer_name": "t", "model_name": "w"}, ("c", "t", "w")),
        (
            {"tokenizer_name": "t", "config_overrides": {"model_type": "bert"}, "use_pretrained_weights": False},
            (None, "t", None),
        ),
    ],
)
def test_each_part_can_have_its_own_name(given: dict[str, Any], names: tuple[str | None, ...]) -> None:
    """config_name, tokenizer_name and model_name override the shared name one by one, and do without it."""
    parts = default_parse_config_tokenizer_model_kwargs(given)
    assert tuple(part.get("pretrained_model_name_or_path") for part in parts) == names
    assert all({"config_name", "tokenizer_name", "model_name"}.isdisjoint(part) for part in parts)


def test_what_is_unset_is_absent() -> None:
    """The kwargs dicts have what was given and the defaults, under model-hub's names; build_using_auto takes them."""
    config, tokenizer, model = default_parse_config_tokenizer_model_kwargs({"pretrained_model_name_or_path": "m"})
    hub = {"revision": "main", "cache_dir": None, "use_auth_token": False}
    shared = {"pretrained_model_name_or_path": "m", **hub}
    assert config == shared
    assert tokenizer == {**shared, "use_fast": True}
    assert model == {**shared, "dtype": "float32"}


def test_a_search_is_resolved_by_the_default_parsers() -> None:
    """In local test mode the hyperparameters arrive as search specifications."""
    hparams = {
        "pretrained_model_name_or_path": {"type": "const", "val": "m"},
        "learning_rate": {"type": "log", "minval": -5, "maxval": -3, "base": 10},
        "warmup_steps": {"type": "int", "minval": 0, "maxval": 101},
    }
    before = copy.deepcopy(hparams)
    optimizer, scheduler = default_parse_optimizer_lr_scheduler_kwargs(hparams)
    assert (optimizer.learning_rate, scheduler.warmup_steps) == (pytest.approx(1e-4), 50)
    assert default_parse_config_tokenizer_model_kwargs(hparams)[2]["pretrained_model_name_or_path"] == "m"
    assert hparams == before


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("num_steps", ": did you mean max_steps?"),
        ("learning_rate2", ": did you mean learning_rate?"),  # numbered, so a name of its own
        ("total_step", ": here it is max_steps"),
        ("text_maxlength", ": here it is max_encoder_seq_length"),
        ("lr", ": here it is learning_rate"),
        ("train_batch_size", ": here it is global_batch_size, the batch over all slots"),
        ("do_train", ": it is not needed here"),
        ("frobnicate", ""),
    ],
)
def test_an_unknown_name_is_warned_about_once(name: str, hint: str, caplog: pytest.LogCaptureFixture) -> None:
    """Parsing the same mapping piece by piece gives one warning, with the nearest right name."""
    for _ in range(2):
        parse_dict_to_dataclasses((OptimizerKwargs,), {name: 1})
        parse_dict_to_dataclasses((LRSchedulerKwargs,), {name: 1})
    assert [record.getMessage() for record in caplog.records] == [f"hyperparameters.{name} is not a known name{hint}"]
    assert caplog.records[0].levelno == logging.WARNING


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("learnin_rate", "learning_rate"),
        ("warmup_step", "warmup_steps"),
        ("max_seq_lenght", "max_seq_length"),
        ("num_beam", "num_beams"),
        ("Learning_rate", "learning_rate"),
    ],
)
def test_a_mistyped_name_is_an_error(name: str, meant: str) -> None:
    """A run never trains by a default in place of what was meant; a name that is declared is right."""
    with pytest.raises(ConfigError, match=f"^hyperparameters.{name} is not a known name: did you mean {meant}\\?$"):
        parse_dict_to_dataclasses((OptimizerKwargs,), {name: 1})
    assert parse_dict_to_dataclasses((OptimizerKwargs,), {name: 1}, known=(name,)) == [OptimizerKwargs()]


def test_other_names_of_the_same() -> None:
    """transformers' former name of dtype, and run_qa's of the model."""
    kwargs = default_parse_config_tokenizer_model_kwargs({"model_name_or_path": "m", "torch_dtype": "bfloat16"})
    assert [part["pretrained_model_name_or_path"] for part in kwargs] == ["m"] * 3
    assert kwargs[2]["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("eval_file", ": here it is validation_file"),  # LocalRQA's
        ("full_dataset_file_path", ": here it is corpus_file"),
        ("--use_flash_attention", ": here it is attn_implementation: flash_attention_2"),
        ("report_to", ": it is not needed here"),
        ("trainer.args.learning_rate", ": here it is hyperparameters.learning_rate"),  # open-unlearning's
        ("trainer.args.report_to", ": it is not needed here"),
        ("trainer.method_args.gamma", ": here it is hyperparameters.objective.args.gamma"),
        ("+model.model_args.revision", ": here it is hyperparameters.revision"),
        ("forget_split", ": here it is the split of data.datasets that data.train names forget"),
        ("paths.output_dir", ": here it is the option --output-dir"),
        ("method_args", ": here it is hyperparameters.objective.args"),
        ("accumulation_steps", ": here it is gradient_accumulation_steps"),  # FiD's
        ("learning_rat", ": did you mean learning_rate?"),
        ("frobnicate", ""),
    ],
)
def test_hints_for_other_tools(key: str, hint: str) -> None:
    """By the tool's whole table before the spelling."""
    assert hint_for(key, ["learning_rate", "max_steps"]) == hint


def test_hints_are_true() -> None:
    """No name of another tool's is one of ours, which would be read, and single words are names that we have."""
    kinds = (*parsing.ALL_KWARGS, CallbackKwargs, FusionKwargs, GenerationKwargs)
    names = {name for kind in kinds for field in init_fields(kind) for name in names_of(field)}
    assert not names & set(other_tools._NAMES)
    words = {hint for hint in other_tools._NAMES.values() if hint.replace("_", "").isalpha()}
    assert len(words) > 10
    assert words - {"hyperparameters"} <= names


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (
            ["trainer.args.learning_rate=1e-5"],
            "trainer.args.learning_rate: .*: here it is hyperparameters.learning_rate",
        ),
        (["--eval_file", "x"], "--eval_file: is not an option of this trial: here it is validation_file"),
        (["mine=1"], "too many words: mine=1"),
    ],
)
def test_hints_for_words_of_a_command(words: list[str], error: str) -> None:
    """As flags, and in open-unlearning's way."""
    with pytest.raises(ConfigError, match=error):
        parse_flags(words, None, lambda parser: None, prog="x")


def test_known_names_are_not_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    """Neither another section's names, nor aliases, nor a subclass's own names are unknown."""
    args = {"doc_stride": 64, "use_auth_token": True, "my_own": 1, "num_labels": 2}
    parse_dict_to_dataclasses((OptimizerKwargs,), args, known=("my_own",))
    assert not caplog.records


@pytest.mark.parametrize(
    ("extra", "error"),
    [
        ({"dat": {}}, "dat: is not a key of a configuration: did you mean data?"),
        ({"hyperparameter": {}}, "hyperparameter: is not a key of a configuration: did you mean hyperparameters?"),
        ({"dat": 1, "description": "${dat}"}, ""),  # a variable, since something refers to it
        ({"mine": 1, "data2": {}}, ""),
    ],
)
def test_a_mistyped_key_of_the_configuration(extra: dict[str, Any], error: str) -> None:
    """At its top as in its sections; a variable of one's own stays one."""
    config = {"entrypoint": "m:C", "searcher": {"metric": "f1"}, **extra}
    if not error:
        assert checked(config).trial_class == "m:C"
        return
    with pytest.raises(ConfigError, match=re.escape(error)):
        checked(config)


def test_null_unsets_a_key(tmp_path: Path) -> None:
    """--config KEY=null takes the key away, so that its default holds; other values stay."""
    path = tmp_path / "c.yaml"
    path.write_text("entrypoint: m:C\nhyperparameters: {max_grad_norm: 2.0, seed: 3}\nname: x\n")
    config = read_config(str(path), ["hyperparameters.max_grad_norm=null", "name=null", "hyperparameters.seed=4"])
    assert config == {"entrypoint": "m:C", "hyperparameters": {"seed": 4}}


def test_validate_lists_unknown_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those that are only warned about, of each section and of the top, once; what something refers to is known."""
    path = tiny.experiment(tmp_path, frobnicate=1, mine=2)
    assert main(["validate", str(path)]) == 0
    assert json.loads(capsys.readouterr().out)["unknown_keys"] == ["hyperparameters.frobnicate", "hyperparameters.mine"]
    config = json.loads(path.read_text())
    config |= {"trainer": {"args": {}}, "variable": 1, "description": "${variable} ${hyperparameters.mine}"}
    config["data"]["noise"] = True
    path.write_text(json.dumps(config))
    assert main(["validate", str(path)]) == 0
    unknown = json.loads(capsys.readouterr().out)["unknown_keys"]
    assert unknown == ["trainer", "hyperparameters.frobnicate", "data.noise"]
    del config["trainer"], config["data"]["noise"], config["hyperparameters"]["frobnicate"]
    path.write_text(json.dumps(config))
    assert main(["validate", str(path)]) == 0
    assert json.loads(capsys.readouterr().out)["unknown_keys"] == []
