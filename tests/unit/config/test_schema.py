"""rqa config schema: what editors complete and underline is what a run takes and refuses."""

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from model_hub_rqa.cli import main
from model_hub_rqa.config import Kwargs, option
from model_hub_rqa.config.fields import init_fields, names_of
from model_hub_rqa.config.schema import json_schema
from model_hub_rqa.registry import TASKS
from model_hub_rqa.runtime.experiments import read_config

ROOT = Path(__file__).parents[3]
SHIPPED = sorted([*ROOT.glob("experiment_configs/*.yaml"), *ROOT.glob("examples/*/*.yaml")])
QUICKSTART = ROOT / "experiment_configs/quickstart.yaml"


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main(["config", "schema", *words]) == 0
    schema = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(schema)
    return schema


def errors(schema: Any, config: Any) -> list[str]:
    """The paths of all errors, ``section.key`` each; "" is the top."""
    found = jsonschema.Draft202012Validator(schema).iter_errors(config)
    return sorted(".".join(map(str, error.absolute_path)) for error in found)


def changed(section: str, **values: Any) -> dict[str, Any]:
    config = copy.deepcopy(read_config(str(QUICKSTART)))
    (config[section] if section else config).update(values)
    return config


@pytest.fixture(scope="module")
def quickstart() -> Any:
    from model_hub_rqa.tasks.extractive.task import ExtractiveKwargs

    return json_schema([ExtractiveKwargs])


@pytest.mark.parametrize("path", [path for path in SHIPPED if path.stem != "encode_corpus"], ids=lambda path: path.stem)
def test_every_shipped_configuration_is_valid(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the schema of itself; and a key that is misspelt in it is not."""
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT))
    schema, config = printed(capsys, str(path)), read_config(str(path))
    assert errors(schema, config) == []
    config["hyperparameters"]["learnin_rate"] = 1e-3
    config["data"]["trian_file"] = "a.json"
    assert errors(schema, config) == ["data", "hyperparameters"]


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("hyperparameters", {"seed": 2.0}),  # as a cluster's JSON may have it
        ("hyperparameters", {"weight_decay": 0}),
        ("hyperparameters", {"learning_rate": {"type": "log", "base": 10, "minval": -5, "maxval": -3}}),
        ("hyperparameters", {"num_train_epochs": {"type": "int", "minval": 1, "maxval": 3, "count": 3}}),
        ("hyperparameters", {"warmup_steps": "${data.steps}"}),
        ("hyperparameters", {"warmup_steps": "???"}),
        ("hyperparameters", {"save_strategy": False}),  # which YAML 1.1 reads for no
        ("hyperparameters", {"evaluation_strategy": "epoch", "torch_dtype": "bfloat16"}),
        ("hyperparameters", {"doc_stride": {"type": "categorical", "vals": [16, 32]}}),  # a task's, to search
        ("hyperparameters", {"model": {"_target_": "a.b", "size": 1}}),
        ("hyperparameters", {"eval_steps": None, "bf16": None}),
        ("data", {"train": ["a", {"name": "b", "train_file": "b.json", "max_train_samples": 3}]}),
        ("data", {"datasets": {"a": None, "b": {"args": {"x": 1}}, "c": {"handler": "QADataset"}}}),
        ("data", {"token": True}),
        ("data", {"train_file": ["a.json", "b.json"]}),
    ],
    ids=str,
)
def test_what_a_run_takes_is_valid(quickstart: Any, section: str, values: dict[str, Any]) -> None:
    assert errors(quickstart, changed(section, **values)) == []


@pytest.mark.parametrize(
    ("section", "values", "place"),
    [
        ("hyperparameters", {"learning_rate": "1e-3"}, "hyperparameters.learning_rate"),
        ("hyperparameters", {"learning_rate": -1}, "hyperparameters.learning_rate"),
        ("hyperparameters", {"adam_beta1": 1}, "hyperparameters.adam_beta1"),
        ("hyperparameters", {"seed": 2**32}, "hyperparameters.seed"),
        ("hyperparameters", {"seed": 1.5}, "hyperparameters.seed"),
        ("hyperparameters", {"seed": True}, "hyperparameters.seed"),
        ("hyperparameters", {"seed": None}, "hyperparameters.seed"),
        ("hyperparameters", {"bf16": 1}, "hyperparameters.bf16"),
        ("hyperparameters", {"output_dir": " "}, "hyperparameters.output_dir"),
        ("hyperparameters", {"lr_scheduler_type": "liner"}, "hyperparameters.lr_scheduler_type"),
        ("hyperparameters", {"fp16": False, "adafactor": False, "use_fast": "yes"}, "hyperparameters.use_fast"),
        (
            "hyperparameters",
            {"learning_rate": {"type": "log", "minval": -5, "maxval": -3}},
            "hyperparameters.learning_rate",
        ),
        ("hyperparameters", {"n_context": 3}, "hyperparameters"),  # of another task
        ("data", {"max_seq_length": 0}, "data.max_seq_length"),
        ("data", {"train_file": []}, "data.train_file"),
        ("data", {"train": [{"name": "a", "trian_file": "b.json"}]}, "data.train"),
        ("data", {"datasets": {"a": {"handlr": "b"}}}, "data.datasets.a"),
        ("data", {"datasets": "a"}, "data.datasets"),
        ("data", {"doc_stride": {"type": "categorical", "vals": [16, 32]}}, "data.doc_stride"),  # not searched there
        ("", {"checkpoint_policy": "bst"}, "checkpoint_policy"),
        ("", {"entrypont": "a:B"}, ""),
        ("", {"searcher": {"metric": 1}}, "searcher.metric"),
    ],
    ids=str,
)
def test_what_a_run_refuses_is_not(quickstart: Any, section: str, values: dict[str, Any], place: str) -> None:
    assert errors(quickstart, changed(section, **values)) == [place]


def test_the_size_of_a_batch_is_required_by_either_name(quickstart: Any) -> None:
    config = changed("hyperparameters")
    del config["hyperparameters"]["global_batch_size"]
    assert errors(quickstart, config) == ["hyperparameters"]
    config["hyperparameters"]["per_device_train_batch_size"] = 8
    assert errors(quickstart, config) == []


def test_fields_have_their_help_and_defaults_but_no_token(quickstart: Any) -> None:
    """Editors show both as they complete a name; an alias says whose it is."""
    fields = quickstart["properties"]["hyperparameters"]["properties"]
    assert fields["learning_rate"]["default"] == 5e-5
    assert "the peak of the schedule" in fields["learning_rate"]["description"]
    assert fields["evaluation_strategy"]["description"].startswith("the same as eval_strategy: ")
    assert "default" not in fields["token"]
    assert "default" not in fields["global_batch_size"]


def test_without_a_trial_the_settings_of_all_tasks_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    """A name that several tasks have takes what any of them takes, as max_seq_length from 1 and from 8 on."""
    schema = printed(capsys)
    known = schema["properties"]["data"]["properties"]
    for name in TASKS.names():
        settings = TASKS.find(name).Settings
        assert settings is None or {one for field in init_fields(settings) for one in names_of(field)} <= set(known)
    assert errors(schema, changed("data", max_seq_length=3)) == []
    assert errors(schema, changed("data", max_seq_length=0)) == ["data.max_seq_length"]
    assert errors(schema, changed("data", n_context=3)) == []


def test_of_a_trial(capsys: pytest.CaptureFixture[str]) -> None:
    known = printed(capsys, "--trial", "model_hub_rqa:FiDTrial")["properties"]["data"]["properties"]
    assert "n_context" in known
    assert "doc_stride" not in known


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--trial", "model_hub_rqa:FidTrial"], "--trial: "),
        (["nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["a.yaml", "--trial", "model_hub_rqa:FiDTrial"], "--trial: must be left out beside a CONFIG"),
    ],
)
def test_what_is_wrong_is_said(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "schema", *words]) == 2
    assert capsys.readouterr().err.startswith(line)


def test_settings_of_ones_own() -> None:
    """A field of a type that is not read here takes anything, as in a run."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Own(Kwargs):
        shape: tuple[int, ...] | None = option(None, help="of any type")
        depth: int = option(help="that must be given")

    schema = json_schema([Own])
    assert errors(schema, changed("", data={"shape": "anything", "depth": 1})) == []
    assert errors(schema, changed("", data={"depth": "1"})) == ["data.depth"]
