"""``${...}`` and ``???`` in a configuration: what they give, what they keep, what they refuse, and on a cluster too."""

import datetime
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from cluster_runs import Trial, run_here, tiny_trial
from determined.common import util
from hypothesis import given
from hypothesis import strategies as st
from stand_in_master import StandInMaster

from model_hub_rqa import cli, train
from model_hub_rqa.config import parsing
from model_hub_rqa.config.experiment import Experiment
from model_hub_rqa.config.interpolation import escape, interpolate, referenced_names
from model_hub_rqa.errors import ConfigError
from model_hub_rqa.runtime import experiments
from model_hub_rqa.trials.qa import QATrial

LOG = {"type": "log", "base": 10.0, "minval": -5.0, "maxval": -3.0}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("${data.rate}", 1e-4),
        ("${data.nothing}", None),
        ("${data.flag}", True),
        ("${data.nested}", [1, [2, [None, 1e-4]]]),
        ("${data.dotted}", {"a.b": 1, "c": "x"}),
        ("${data.date}", datetime.date(2026, 1, 2)),
        ("${.rate}", 1e-4),
        ("${data.chain}", 1e-4),
        ("${data.nested[1]}", [2, [None, 1e-4]]),
        ("${top}/squad/${data.count}.json", "/srv/squad/3.json"),
        ("${oc.select:data.rate,7}", 1e-4),
        ("${oc.select:data.absent,7}", 7),
        ("${oc.select:data.absent,${data.count}}", 3),
        ("${oc.select:data.absent}", None),
        ("costs $5, or US$ 6; $HOME", "costs $5, or US$ 6; $HOME"),
        (r"\${data.rate}", "${data.rate}"),
        (r"C:\${data.count}", r"C:${data.count}"),
        (r"C:\\${data.count}", r"C:\3"),
        ("???!", "???!"),
        (1e-4, 1e-4),
        (None, None),
        ([{"${x.y": 1}], [{"${x.y": 1}]),
    ],
)
def test_a_reference_gives_a_value_with_its_type(value: Any, expected: Any) -> None:
    """Alone it keeps the type, within a text it is written out, and what is no reference stays as it is."""
    data = {
        "rate": 1e-4,
        "nothing": None,
        "flag": True,
        "count": 3,
        "nested": [1, [2, [None, 1e-4]]],
        "dotted": {"a.b": 1, "c": "x"},
        "date": datetime.date(2026, 1, 2),
        "chain": "${hyperparameters.rate}",
        "value": value,
    }
    config = {"top": "/srv", "hyperparameters": {"rate": "${data.rate}"}, "data": data}
    found = interpolate(config)["data"]["value"]
    assert found == expected
    assert type(found) is type(expected)
    assert data["value"] == value  # what was given is not changed


def test_every_error_is_listed_with_its_path() -> None:
    """References to nowhere, ``???``, what cannot be read and circles, in one error."""
    config = {
        "name": "???",
        "hyperparameters": {"seed": "${data.sed}", "list": [1, {"x": "???"}], "size": "${data.open}"},
        "data": {
            "seed": 1,
            "open": "???",
            "brace": "${data.seed",
            "circle": "${.circle}",
            "near": "${.sead}",
            "kind": "${magic:1}",
            "env": "${oc.env:RQA_NO_SUCH_VARIABLE}",
        },
    }
    with pytest.raises(ConfigError, match=r"must be given: it is left open \(\?\?\?\)") as error:
        interpolate(config)
    assert set(error.value.errors) == {
        "name: must be given: it is left open (???)",
        "hyperparameters.seed: got '${data.sed}', but there is no data.sed: did you mean data.seed?",
        "hyperparameters.list.1.x: must be given: it is left open (???)",
        "hyperparameters.size: got '${data.open}', and what that refers to is left open (???)",
        "data.open: must be given: it is left open (???)",
        r"data.brace: must close each ${ that it opens (\${ is the text ${), got '${data.seed'",
        "data.circle: got '${.circle}': Recursive interpolation detected",
        "data.near: got '${.sead}', but there is no data.sead: did you mean data.seed?",
        "data.kind: got '${magic:1}': Unsupported interpolation type magic",
        "data.env: got '${oc.env:RQA_NO_SUCH_VARIABLE}': KeyError raised while resolving interpolation: "
        "\"Environment variable 'RQA_NO_SUCH_VARIABLE' not found\"",
    }


def test_only_the_sections_asked_for_are_resolved() -> None:
    """What stands elsewhere may be left open, and can be referenced to all the same."""
    config = {"name": "???", "other": "${nowhere}", "more": {"x": 5}, "data": {"x": "${more.x}"}}
    assert interpolate(config, ["data"]) == {**config, "data": {"x": 5}}


def test_search_specifications_keep_working() -> None:
    """One value stands for each, and a reference to it gives the same; texts in them are checked, chosen or not."""
    choice = {"type": "categorical", "vals": ["${data.model}", "other"]}
    hparams = {"rate": LOG, "choice": choice, "again": "${.rate}", "inner": {"deep": LOG, "x": "${data.model}"}}
    config = {"hyperparameters": hparams, "data": {"model": "m", "r": "${hyperparameters.rate}"}}
    experiment = Experiment.load(config)
    assert experiment.hyperparameters == {
        "rate": 1e-4,
        "choice": "m",
        "again": 1e-4,
        "inner": {"deep": 1e-4, "x": "m"},
    }
    assert experiment.data == {"model": "m", "r": 1e-4}
    assert experiment.trial_hparams == {
        "rate": 1e-4,
        "choice": "${data.model}",
        "again": "${.rate}",
        "inner": {"deep": 1e-4, "x": "${data.model}"},
    }
    assert experiment.raw["hyperparameters"] == hparams
    with pytest.raises(
        ConfigError, match=r"hyperparameters\.choice\.vals\.1: got .*no data\.modle: did you mean data\.m"
    ):
        Experiment.load({"hyperparameters": {"choice": {**choice, "vals": [1, "${data.modle}"]}}, "data": {"model": 1}})


def test_a_trial_reads_what_the_search_chose() -> None:
    """The cluster hands the configuration over as written, with its own hyperparameters beside it."""
    config = {"hyperparameters": {"rate": LOG, "steps": 4}, "data": {"r": "${hyperparameters.rate}", "my": {"x": 2}}}
    config["environment"] = {"variables": ["A=${HOME}"]}  # of the cluster's shell
    found = Experiment.load(config, {"rate": 3e-5, "steps": "${data.my.x}"})
    assert found.hyperparameters == {"rate": 3e-5, "steps": 2}
    assert found.data == {"r": 3e-5, "my": {"x": 2}}
    assert found.referenced == {"hyperparameters": {"rate"}, "data": {"my"}}


def test_what_is_referred_to_is_known() -> None:
    """By absolute and relative paths, by brackets, and as the key of a resolver."""
    data = {
        "file": "${.root}/train.json",
        "inner": {"file": "${..folder}/x", "deep": "${data.vars.x} ${oc.select:hyperparameters.q,1}"},
        "list": ["${data[bracket]}"],
        "text": r"data.nobody \$ data.nothing",
    }
    found = referenced_names({"data": data, "name": "${hyperparameters.n}"})
    assert found == {"data": {"root", "folder", "vars", "bracket"}, "hyperparameters": {"q", "n"}}


pieces = st.lists(st.sampled_from(["\\", "${", "}", "a", ".", "$", "???"]), max_size=6)
texts = pieces.map("".join).filter(lambda text: text != "???")
trees = st.recursive(
    texts | st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab.", min_size=1), inner, max_size=3),
)


@given(trees)
def test_what_was_settled_reads_as_it_is(value: Any) -> None:
    """Whatever text there is, it is escaped, so that reading it again gives the value that was resolved."""
    escaped = escape({"data": {"x": value}})
    assert interpolate(escaped) == {"data": {"x": value}}
    once = Experiment.load(escaped).file_content()
    assert once == escaped
    assert Experiment.load(once).file_content() == escaped


def test_a_secret_that_is_a_reference_is_not_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's token comes from the environment and must not reach a file."""
    monkeypatch.setenv("MY_TOKEN", "hf_secret")
    hparams = {"token": "${oc.env:MY_TOKEN}", "revision": "${oc.env:MY_TOKEN}"}
    experiment = Experiment.load({"hyperparameters": hparams, "data": None})
    assert experiment.trial_hparams == hparams, "what Determined writes into checkpoints"
    assert experiment.hyperparameters["token"] == "hf_secret"
    assert experiment.file_content() == {
        "hyperparameters": {"token": "${oc.env:MY_TOKEN}", "revision": "hf_secret"},
        "data": None,
    }


def test_omegaconf_is_loaded_only_where_it_is_needed() -> None:
    """A configuration without a reference is read without it."""
    script = (
        "import sys; from model_hub_rqa.config.experiment import Experiment; hp = 'hyperparameters';"
        "Experiment.load({hp: {'a': 1, 'b': 'costs $5'}, 'data': {'c': '}'}}); assert 'omegaconf' not in sys.modules;"
        "Experiment.load({hp: {'a': '${data.c}'}, 'data': {'c': '}'}}); assert 'omegaconf' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


# ---- whole runs ----


def with_references(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration that says the same by references, back and forth between its sections."""
    data, hparams = config["data"], config["hyperparameters"]
    folder = str(Path(data["train_file"]).parent)
    data |= {
        "my": {"folder": folder, "rate": hparams["learning_rate"]},
        "train_file": "${data.my.folder}/train.json",
        "validation_file": "${.my.folder}/validation.json",
        "doc_stride": "${hyperparameters.stride}",
    }
    hparams |= {"stride": 16, "learning_rate": "${data.my.rate}", "seed": "${oc.select:data.seed,42}"}
    return config


@pytest.fixture
def known_anew() -> Iterator[None]:
    """Unknown names are warned about once in a process: forget those of earlier tests."""
    parsing._warn_once.cache_clear()
    return


@pytest.fixture
def master() -> Iterator[StandInMaster]:
    with StandInMaster() as master:
        yield master


def losses(run: Path) -> list[float]:
    return [report["loss"] for report in tiny.reports(run, "training")]


@pytest.mark.usefixtures("known_anew")
def test_a_run_with_references_is_the_same_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It trains as without them, no variable of one's own is unknown, and config.yaml has the values."""
    path = tiny.experiment(tmp_path, max_steps=3)
    assert train.main([str(path), "--output-dir", str(tmp_path / "plain")]) == 0
    config = with_references(json.loads(path.read_text()))
    path.write_text(json.dumps(config))
    assert train.main([str(path), "--output-dir", str(tmp_path / "run")]) == 0
    assert losses(tmp_path / "run") == losses(tmp_path / "plain")
    assert "is not a known name" not in caplog.text
    with (tmp_path / "run/config.yaml").open(encoding="utf-8") as file:
        written = util.safe_load_yaml_with_exceptions(file)
    assert written["data"]["doc_stride"] == 16
    assert written["hyperparameters"]["learning_rate"] == 1e-3
    again = tmp_path / "run/config.yaml"
    assert train.main([str(again), "--output-dir", str(tmp_path / "again")]) == 0
    assert losses(tmp_path / "again") == losses(tmp_path / "plain")


@pytest.mark.usefixtures("known_anew")
@pytest.mark.parametrize("legacy", [False, True], ids=["script", "legacy"])
def test_a_cluster_resolves_the_same(
    legacy: bool, tmp_path: Path, master: StandInMaster, caplog: pytest.LogCaptureFixture
) -> None:
    """The master hands references over as written; what the search chose is what ``${hyperparameters.x}`` gives."""
    path = tiny.experiment(tmp_path, max_steps=10)
    plain = json.loads(path.read_text())
    plain["hyperparameters"]["learning_rate"] = 3e-4
    path.write_text(json.dumps(plain))
    assert train.main([str(path), "--output-dir", str(tmp_path / "plain")]) == 0
    config = with_references(plain)
    rate = {"type": "double", "minval": 1e-4, "maxval": 1.0}
    config["hyperparameters"] |= {"rate": rate, "learning_rate": "${data.my.rate}"}
    config["data"]["my"]["rate"] = "${hyperparameters.rate}"
    trial_hparams = {**config["hyperparameters"], "rate": 3e-4}
    run_here(Trial(tmp_path, config, legacy=legacy, hparams=trial_hparams), master)
    told = [(report.steps, report.metrics["f1"]) for report in master.of("validation")]
    assert told == [(report["steps"], report["f1"]) for report in tiny.reports(tmp_path / "plain", "validation")]
    last = master.of("training")[-1].metrics
    assert last["learning_rate"] == pytest.approx(tiny.reports(tmp_path / "plain", "training")[-1]["learning_rate"])
    assert "is not a known name" not in caplog.text


@pytest.mark.usefixtures("known_anew")
def test_a_variable_that_nothing_refers_to_is_a_misspelling(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Only what something refers to goes without an error."""
    path = tiny.experiment(tmp_path)
    config = json.loads(path.read_text())
    config["data"] |= {"max_seq_lenght": 32, "mine": 16, "doc_stride": "${.mine}"}
    trial: Any = object.__new__(QATrial)
    experiment = experiments.checked(config)
    with pytest.raises(ConfigError, match=r"data\.max_seq_lenght is not a known name: did you mean max_seq_length\?"):
        trial.parse(experiment)
    assert "mine" not in caplog.text


def test_a_reference_to_nowhere_ends_before_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All are listed, exit 2, and nothing is written."""
    path = tiny.experiment(tmp_path)
    options = ["--config", "hyperparameters.seed=${data.seeed}", "--config", "data.train_file=???"]
    assert train.main([str(path), "--output-dir", str(tmp_path / "run"), *options]) == 2
    told = capsys.readouterr().err
    assert "hyperparameters.seed: got '${data.seeed}', but there is no data.seeed" in told
    assert "data.train_file: must be given: it is left open (???)" in told
    assert not (tmp_path / "run").exists()


def test_the_batch_size_may_be_a_reference(tmp_path: Path, master: StandInMaster) -> None:
    """Determined reads it before the trial does, locally and by the script entrypoint on a cluster."""
    trial = tiny_trial(tmp_path, max_steps=1, global_batch_size="${data.my_size}")
    trial.config["data"]["my_size"] = 4
    run_here(trial, master)
    (report,) = master.of("validation")
    assert report.steps == 1
    path = tmp_path / "own.yaml"
    path.write_text(json.dumps(trial.config))
    assert train.main([str(path), "--output-dir", str(tmp_path / "run")]) == 0


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every call that resolves a configuration, or a part of one."""
    from model_hub_rqa.config import experiment, interpolation

    calls: list[str] = []

    def counting(name: str) -> Any:
        original = getattr(interpolation, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return original(*args, **kwargs)

        return call

    for name in ("interpolate", "resolve_search_specs"):
        wrapped = counting(name)
        for module in (experiment, interpolation):
            monkeypatch.setattr(module, name, wrapped)
    return calls


ONCE = ["resolve_search_specs", "interpolate"]


@pytest.mark.parametrize("legacy", [False, True], ids=["script", "legacy"])
def test_a_cluster_loads_the_configuration_once(
    legacy: bool, tmp_path: Path, master: StandInMaster, counted: list[str]
) -> None:
    """By either entrypoint: the script hands it to the trial, or the trial loads it."""
    trial = tiny_trial(tmp_path, max_steps=10)
    run_here(Trial(tmp_path, trial.config, legacy=legacy, hparams=trial.config["hyperparameters"]), master)
    assert master.of("validation")
    assert counted == ONCE


def test_a_local_run_and_a_check_load_the_configuration_once(
    tmp_path: Path, counted: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """With a search specification and a reference."""
    path = tiny.experiment(tmp_path, max_steps=1)
    config = json.loads(path.read_text())
    config["hyperparameters"] |= {"learning_rate": LOG, "seed": "${data.my_seed}"}
    config["data"]["my_seed"] = 3
    path.write_text(json.dumps(config))
    assert train.main([str(path), "--output-dir", str(tmp_path / "run")]) == 0
    assert counted == ONCE
    counted.clear()
    assert cli.main(["validate", str(path)]) == 0
    assert counted == ONCE
