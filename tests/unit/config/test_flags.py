"""rqa train from flags: what they set, what they leave unset, how help shows them, and what a cluster makes of it."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import expconf
import pytest
import tiny
from cluster_runs import Trial, run_here
from determined.common import util
from stand_in_master import StandInMaster

from model_hub_rqa import cli, train
from model_hub_rqa.commands import train_arguments as command_line
from model_hub_rqa.config import Kwargs, flags, option
from model_hub_rqa.config.fields import init_fields
from model_hub_rqa.tasks.extractive.task import ExtractiveKwargs
from model_hub_rqa.tasks.fid.settings import FusionKwargs

QA = "model_hub_rqa:QATrial"
ROOT = Path(__file__).parents[3]


def read(path: Path) -> Any:
    with path.open(encoding="utf-8") as file:
        return util.safe_load_yaml_with_exceptions(file)


def parse(*argv: str, task: type | None = ExtractiveKwargs) -> dict[str, dict[str, Any]]:
    return flags.parse_flags(argv, task, train.add_arguments, prog="rqa train")[1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EveryKind(Kwargs):
    """Fields of every kind that a task may have."""

    words: list[str] | None = option(None, help="some words")
    numbers: list[int] = dataclasses.field(default_factory=list)
    either: str | list[str] | None = option(None, help="one or several")
    tree: dict[str, Any] | None = option(None, help="a tree")
    anything: Any = option(None, help="100 % of it")
    strict: bool = option(True, help="be strict")
    resume: str | None = option(None, help="a name that the command has")


@pytest.mark.parametrize(
    ("words", "section", "expected"),
    [
        ("--learning_rate 3e-5", "hyperparameters", {"learning_rate": 3e-5}),
        ("--learning-rate=3e-5", "hyperparameters", {"learning_rate": 3e-5}),
        ("--max_steps -1", "hyperparameters", {"max_steps": -1}),
        ("--num_train_epochs 2", "hyperparameters", {"num_train_epochs": 2}),
        ("--bf16", "hyperparameters", {"bf16": True}),
        ("--bf16 false --fp16", "hyperparameters", {"bf16": False, "fp16": True}),
        ("--no_group_by_length", "hyperparameters", {"group_by_length": False}),
        ("--group_by_length no", "hyperparameters", {"group_by_length": False}),
        ("--no-use-pretrained-weights", "hyperparameters", {"use_pretrained_weights": False}),
        ("--token true", "hyperparameters", {"token": True}),
        ("--use_auth_token hf_x", "hyperparameters", {"token": "hf_x"}),
        ('--config_overrides {"a":{"b":1e-4}}', "hyperparameters", {"config_overrides": {"a": {"b": 1e-4}}}),
        ("--num_warmup_steps 3", "hyperparameters", {"warmup_steps": 3}),
        ("--seed x", "hyperparameters", {"seed": "x"}),
        ("--train_file 12", "data", {"train_file": "12"}),
        ("--data_revision main", "data", {"revision": "main"}),
        ("--words a b --numbers 1 2", "data", {"words": ["a", "b"], "numbers": [1, 2]}),
        ("--either a", "data", {"either": "a"}),
        ('--either ["a","b"]', "data", {"either": ["a", "b"]}),
        ('--tree {"a":[1]} --anything x --no_strict', "data", {"tree": {"a": [1]}, "anything": "x", "strict": False}),
    ],
)
def test_a_flag_sets_its_field(words: str, section: str, expected: dict[str, Any]) -> None:
    """In its section, as its type reads it, and nothing else is set; types are exact."""
    found = parse(*words.split(" "), task=EveryKind)
    assert found == {section: expected}
    assert str(found[section]) == str({name: expected[name] for name in found[section]})


@pytest.mark.parametrize("task", [None, ExtractiveKwargs, FusionKwargs, EveryKind])
def test_every_field_has_one_flag(task: type | None) -> None:
    """Each field of each dataclass that a trial reads, those that the command itself has apart."""
    found = flags.flags_of(task, ["resume"])
    kinds = [*((kind, "hyperparameters") for kind in flags.HYPERPARAMETERS), *((kind, "data") for kind in flags.DATA)]
    kinds += [] if task is None else [(task, "data")]
    wanted = {(section, field.name) for kind, section in kinds for field in init_fields(kind)} - {("data", "resume")}
    assert {(flag.section, flag.field.name) for flag in found.values()} == wanted
    assert len(found) == len(wanted)


def test_help_shows_a_group_for_each_dataclass(capsys: pytest.CaptureFixture[str]) -> None:
    """With types, rules, defaults and help; what has no default shows none."""
    with pytest.raises(SystemExit, match=r"^0$") as stop:
        cli.main(["train", "--trial", QA, "--help"])
    assert stop.value.code == 0
    told = " ".join(capsys.readouterr().out.split())
    assert told.startswith("usage: rqa train [CONFIG] [--trial MODULE:CLASS]")
    for kind in (*flags.HYPERPARAMETERS, flags.DatasetKwargs, ExtractiveKwargs):
        assert (
            f"{kind.__name__} ({'data' if kind.__name__ in ('DatasetKwargs', 'ExtractiveKwargs') else 'hyper'}" in told
        )
    assert "--doc_stride INT, --doc-stride INT tokens that two neighbouring windows share; >= 0; default: 128" in told
    assert "--train_file TEXT|JSON, --train-file TEXT|JSON the file to train on, a pattern of several" in told
    assert (
        "group_by_length [BOOL], --group-by-length [BOOL] batch examples of like length together; default: true" in told
    )


def test_help_knows_the_trial_of_a_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    """CONFIG --help shows the flags of its trial; a per cent sign in a help text is one."""
    with pytest.raises(SystemExit, match=r"^0$"):
        train.main([str(ROOT / "experiment_configs/fid_quickstart.yaml"), "--help"])
    assert "--n_context INT" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"^0$"):
        parse("--help", task=EveryKind)
    assert "100 % of it" in capsys.readouterr().out


def test_help_without_a_trial_loads_nothing_heavy() -> None:
    """It shows the options that every trial has."""
    code = (
        "import sys; from model_hub_rqa import cli\ntry: cli.main(['train', '--help'])\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'transformers', 'determined', 'omegaconf') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--output-dir DIR" in found.stdout
    assert found.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (
            ["--trial", QA, "--lerning_rate", "1", "--max_seq_lenght=2", "--zzz"],
            "--lerning_rate: is not an option of this trial: did you mean --learning_rate?\n"
            "--max_seq_lenght: is not an option of this trial: did you mean --max_seq_length?\n"
            "--zzz: is not an option of this trial\n",
        ),
        (["--trial", QA, "--learning_rat", "1"], "--learning_rat: is not an option of this trial: did you mean --lear"),
        (
            ["--trial", QA, "--output_dirr", "x"],
            "--output_dirr: is not an option of this trial",
        ),
        (["--trial", QA, "--doc_stride"], "argument --doc_stride/--doc-stride: expected one argument\n"),
        (["--trial", QA, "--bf16", "maybe"], "argument --bf16: Truthy value expected: got maybe"),
        (["--trial", QA, "--config_overrides", "{1"], "must be JSON (Expecting property name"),
        (["--trial", QA, "--seed", "1", "a", "b"], "too many words: b\n"),
        (["--learning_rate", "1"], "--learning_rate: is no option, unless --trial or a CONFIG before it says what is"),
        ([], "CONFIG: the experiment configuration is missing (or --trial, and flags)\n"),
        (
            ["--trial", "model_hub_rqa:NoTrial", "--seed", "1"],
            "--trial: model_hub_rqa has no NoTrial: did you mean",
        ),
        (
            ["--trial", QA, "--seed", "x", "--config_overrides", "y", "--max_seq_length", "4"],
            "--config_overrides: must be a mapping, got 'y'\n"
            "--pretrained_model_name_or_path: is required (or config_name, tokenizer_name and model_name "
            "one by one)\n--seed: must be a whole number, got 'x'\n"
            "--dataset_name: is required where train_file is not given\n"
            "--doc_stride: must be < max_seq_length (4), got 128\n",
        ),
    ],
)
def test_what_is_wrong_is_said(
    argv: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2, with the nearest name; what is wrong with values is said all at once, by the names of the flags."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", *argv]) == 2
    assert told in capsys.readouterr().err


# ---- whole runs ----


def words_of(config: dict[str, Any], *leave_out: str) -> list[str]:
    """The flags that say what a configuration does."""
    settings = {**config["hyperparameters"], **{k: v for k, v in config["data"].items() if k != "cache_dir"}}
    settings["data_cache_dir"] = config["data"]["cache_dir"]
    pairs = [(f"--{name}", str(value)) for name, value in settings.items() if name not in leave_out]
    return [word for pair in pairs for word in pair]


def same_run(one: Path, other: Path) -> bool:
    kinds = ("training", "validation")
    return all(tiny.reports(one, kind) == tiny.reports(other, kind) for kind in kinds)


@pytest.fixture(scope="module")
def by_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration, and the run of it."""
    folder = tmp_path_factory.mktemp("file")
    assert train.main([str(tiny.experiment(folder, num_train_epochs=1)), "--output-dir", str(folder / "run")]) == 0
    return folder


@pytest.fixture(scope="module")
def by_flags(by_file: Path) -> Path:
    """The same run by flags alone."""
    words = words_of(read(by_file / "experiment.yaml"), "global_batch_size")
    assert cli.main(["train", "--trial", QA, *words, "--output-dir", str(by_file / "flags")]) == 0
    return by_file / "flags"


def test_flags_alone_train_as_a_file_does(by_file: Path, by_flags: Path) -> None:
    """Value by value the same reports."""
    assert same_run(by_file / "run", by_flags)


def test_the_configuration_beside_the_run_is_whole(by_file: Path, by_flags: Path) -> None:
    """It holds what was given and no more, what a cluster needs, and trains the same again."""
    config, given = read(by_flags / "config.yaml"), read(by_file / "experiment.yaml")
    assert config["entrypoint"] == QA
    assert config["name"] == "QATrial"
    assert config["hyperparameters"] == given["hyperparameters"]
    assert config["data"] == given["data"]
    wanted = {"name": "single", "metric": "f1", "smaller_is_better": False, "max_length": {"epochs": 1}}
    assert config["searcher"] == wanted
    assert config["resources"] == {"slots_per_trial": 1}
    if folder := os.environ.get("RQA_EXPCONF"):
        assert expconf.experiment_errors(expconf.Schemas.of_folder(folder), config) == []
    assert train.main([str(by_flags / "config.yaml"), "--output-dir", str(by_file / "again")]) == 0
    assert same_run(by_flags, by_file / "again")


@pytest.mark.parametrize("legacy", [False, True], ids=["script", "legacy"])
def test_a_cluster_runs_the_configuration_beside_the_run(legacy: bool, by_file: Path, by_flags: Path) -> None:
    """By the entrypoint as given, and by the script."""
    config = read(by_flags / "config.yaml")
    with StandInMaster() as master:
        run_here(Trial(by_file, config, trial_class=QA, legacy=legacy), master)
        told = [(report.steps, report.metrics["f1"]) for report in master.of("validation")]
    assert told[-1:] == [(report["steps"], report["f1"]) for report in tiny.reports(by_flags, "validation")]


@pytest.mark.slow
def test_determineds_local_test_mode_runs_the_configuration(by_flags: Path, tmp_path: Path) -> None:
    """det experiment create RUN/config.yaml . --local --test."""
    det = Path(sys.executable).with_name("det")
    command = [str(det), "experiment", "create", str(by_flags / "config.yaml"), ".", "--local", "--test"]
    environment = {**os.environ, "XDG_DATA_HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_flags_override_a_file(by_file: Path, tmp_path: Path) -> None:
    """Also where a hyperparameter of a task's setting would hide it, and where the file uses another name."""
    config = read(by_file / "experiment.yaml")
    config["hyperparameters"] |= {"max_seq_length": 64, "num_warmup_steps": 1}
    config["searcher"]["max_length"] = {"epochs": 1}
    path = tmp_path / "experiment.yaml"
    path.write_text(json.dumps(config))
    words = ["--max_seq_length", "48", "--warmup_steps", "2", "--max_steps", "3", "--eval_steps", "2"]
    assert cli.main(["train", str(path), *words, "--output-dir", str(tmp_path / "run")]) == 0
    resolved = read(tmp_path / "run/config.yaml")
    hparams = {**config["hyperparameters"], "max_seq_length": 48, "warmup_steps": 2, "max_steps": 3, "eval_steps": 2}
    del hparams["num_warmup_steps"]
    assert resolved["hyperparameters"] == hparams
    assert resolved["data"]["max_seq_length"] == 48
    assert resolved["searcher"]["max_length"] == {"batches": 3}
    assert resolved["min_validation_period"] == {"batches": 2}
    assert [report["steps"] for report in tiny.reports(tmp_path / "run", "validation")] == [2, 3]


@pytest.mark.parametrize(
    ("hparams", "length", "script"),
    [
        ({}, {"epochs": 9}, False),  # says nothing of a length
        ({"num_train_epochs": 2.0}, {"epochs": 2}, False),
        ({"num_train_epochs": 0.5}, None, True),
        ({"num_train_epochs": 2, "max_steps": 7, "gradient_accumulation_steps": 3}, {"batches": 21}, False),
        ({"num_train_epochs": 0}, None, True),
        ({"max_steps": 0}, None, True),
        ({"num_train_epochs": "${data.x}"}, {"epochs": 9}, False),
        ({"max_steps": None}, {"epochs": 9}, False),
    ],
)
def test_the_length_is_said_where_a_cluster_looks(hparams: Any, length: Any, script: bool) -> None:
    """searcher.max_length for module:Class; what it cannot say needs the script."""
    searcher = {"name": "single", "metric": "f1", "max_length": {"epochs": 9}}
    config = command_line.with_lengths({"entrypoint": QA, "hyperparameters": hparams, "searcher": searcher})
    assert config["searcher"].get("max_length") == length
    assert (config["entrypoint"] != QA) == script
    assert config["entrypoint"].endswith(QA)
    assert searcher["max_length"] == {"epochs": 9}


def test_flags_have_no_say_on_a_cluster(by_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """There the configuration says what to train: a flag would train something else than it shows."""
    with StandInMaster() as master:
        assert run_here(Trial(by_file, read(by_file / "experiment.yaml")), master, "--seed", "3") == 2
        assert not master.of("training")
    assert "on a cluster the configuration says what to train" in capsys.readouterr().err
