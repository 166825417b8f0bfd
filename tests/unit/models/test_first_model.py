"""Where a run's first weights come from: a model of the user's own, and the weights of an earlier run."""

import json
import random
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import forked
import own_trials
import pytest
import tiny
import tiny_fusion
import torch
from cluster_runs import Trial, run_here
from determined import pytorch
from readers_for_tests import sharded_copy
from safetensors.torch import load_file
from stand_in_master import StandInMaster
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, BertConfig, BertForQuestionAnswering

from model_hub_rqa import train
from model_hub_rqa.cli import main
from model_hub_rqa.errors import ConfigError
from model_hub_rqa.models.init_source import load_weights, read_init_source, save_weights
from model_hub_rqa.models.signature import loss_of
from model_hub_rqa.registry import MODELS
from model_hub_rqa.trials.qa import QATrial
from model_hub_rqa.trials.task_trial import TaskTrial

READER = {"_target_": "own_models.build_reader", "hidden_size": 8}


def change(path: Path, *, data: dict[str, Any] | None = None, **hyperparameters: Any) -> Path:
    """A copy of a configuration beside it; what is None is taken out."""
    config = json.loads(path.read_text())
    for section, changes in (("hyperparameters", hyperparameters), ("data", data or {})):
        merged = {**config[section], **changes}
        config[section] = {name: value for name, value in merged.items() if value is not None}
    copy = path.with_name(f"changed-{random.randrange(10**9)}.yaml")
    copy.write_text(json.dumps(config))
    return copy


def run(config: Path, output: Path, *options: str) -> int:
    return train.main([str(config), "--output-dir", str(output), *options])


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration, and in ``run`` two epochs of it: checkpoints after 5 and 10 batches."""
    folder = tmp_path_factory.mktemp("earlier")
    assert run(tiny.experiment(folder), folder / "run") == 0
    return folder


# ---- init_checkpoint ----


@pytest.mark.parametrize("kind", ["run", "checkpoint", "pretrained", "exported"])
def test_a_run_starts_from_an_earlier_ones_weights(kind: str, earlier: Path, tmp_path: Path) -> None:
    """From a run's folder (here its newest whole checkpoint), a checkpoint, or a save_pretrained folder; no other name.

    Weights that nothing trains are the earlier ones to the last bit; optimizer and schedule begin anew.
    """
    newest = earlier / "run/checkpoints/checkpoint-10"
    where = {"run": f"{earlier / 'run'}@last", "checkpoint": newest, "pretrained": newest / "pretrained"}
    if kind == "exported":
        where[kind] = tmp_path / "exported"
        assert main(["export", "--checkpoint", str(newest), "--output", str(where[kind])]) == 0
    names = {"pretrained_model_name_or_path": None, "init_checkpoint": str(where[kind])}
    config = change(earlier / "experiment.yaml", **names, max_steps=1, learning_rate=0.0)
    assert run(config, tmp_path / "run") == 0
    assert tiny.equal(tiny.weights(tmp_path / "run", 1), tiny.weights(earlier / "run", 10))


@pytest.mark.parametrize("field", ["init_checkpoint", "pretrained_model_name_or_path"])
def test_first_weights_may_lie_in_several_files(field: str, earlier: Path, tmp_path: Path) -> None:
    """As ``save_pretrained(max_shard_size=...)`` writes them."""
    pretrained = earlier / "run/checkpoints/checkpoint-10/pretrained"
    sharded_copy(pretrained, tmp_path / "shards", AutoModelForQuestionAnswering)
    names = {"pretrained_model_name_or_path": None, field: str(tmp_path / "shards")}
    config = change(earlier / "experiment.yaml", **names, max_steps=1, learning_rate=0.0)
    assert run(config, tmp_path / "run") == 0
    assert tiny.equal(tiny.weights(tmp_path / "run", 1), tiny.weights(earlier / "run", 10))


def test_init_checkpoint_does_not_load_the_pretrained_weights(earlier: Path, tmp_path: Path) -> None:
    """Beside a name, which gives config and tokenizer alone: its weights may be missing."""
    shutil.copytree(earlier / "model", tmp_path / "model")
    (tmp_path / "model/model.safetensors").unlink()
    names = {"pretrained_model_name_or_path": str(tmp_path / "model"), "init_checkpoint": f"{earlier / 'run'}@last"}
    config = change(earlier / "experiment.yaml", **names, max_steps=1, learning_rate=0.0)
    assert run(config, tmp_path / "run") == 0
    assert tiny.equal(tiny.weights(tmp_path / "run", 1), tiny.weights(earlier / "run", 10))


def test_a_fusion_reader_starts_from_earlier_weights(tmp_path: Path) -> None:
    """An encoder-decoder with tied embeddings."""
    config = tiny_fusion.experiment(tmp_path, train=8, validation=3, max_steps=2)
    assert run(config, tmp_path / "run") == 0
    changed = change(config, init_checkpoint=f"{tmp_path / 'run'}@last", max_steps=1, learning_rate=0.0)
    assert run(changed, tmp_path / "again") == 0
    assert tiny.equal(tiny.weights(tmp_path / "again", 1), tiny.weights(tmp_path / "run", 2))


def test_a_damaged_checkpoint_is_passed_over_or_refused(
    earlier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run's folder gives its newest whole one; a damaged one by name is refused, before a model is built."""
    shutil.copytree(earlier / "run", tmp_path / "damaged")
    weights = tmp_path / "damaged/checkpoints/checkpoint-10/pretrained/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    config = change(
        earlier / "experiment.yaml", init_checkpoint=str(tmp_path / "damaged"), max_steps=1, learning_rate=0.0
    )
    assert run(config, tmp_path / "run") == 0
    assert tiny.equal(tiny.weights(tmp_path / "run", 1), tiny.weights(earlier / "run", 5))
    for place in (weights.parent, weights.parent.parent):
        config = change(earlier / "experiment.yaml", init_checkpoint=str(place), seed=-1)
        assert run(config, tmp_path / "other") == 2
        told = capsys.readouterr().err
        assert "hyperparameters.init_checkpoint: " in told
        assert "damaged, its SHA-256 is not the one in manifest.json" in told
        assert "hyperparameters.seed: must be >= 0" in told  # with all other errors
    assert run(change(earlier / "experiment.yaml", init_checkpoint="nowhere"), tmp_path / "other") == 2
    assert "hyperparameters.init_checkpoint: nowhere: is neither a run's folder" in capsys.readouterr().err


def test_weights_that_do_not_fit_are_named(earlier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Missing ones, unknown ones and those of another shape, by name and shape."""
    state = AutoModelForQuestionAnswering.from_pretrained(earlier / "model").state_dict()
    state["qa_outputs.weight"] = torch.zeros(3, 16)
    del state["qa_outputs.bias"]
    state["one.more"] = torch.zeros(1)
    folder = tmp_path / "other"
    BertForQuestionAnswering.from_pretrained(earlier / "model").save_pretrained(folder, state_dict=state)
    assert run(change(earlier / "experiment.yaml", init_checkpoint=str(folder)), tmp_path / "run") == 2
    told = capsys.readouterr().err.splitlines()
    start = f"hyperparameters.init_checkpoint: {folder} does not fit the model: 1 weights "
    assert set(told) >= {
        f"{start}of the model are not in it: qa_outputs.bias",
        f"{start}in it are not the model's: one.more",
        f"{start}have another shape: qa_outputs.weight 3x16 there, 2x16 here",
    }
    assert not list((tmp_path / "run").glob("checkpoints/*"))


@pytest.mark.parametrize("legacy", [False, True], ids=["script", "legacy"])
def test_a_cluster_starts_from_earlier_weights(legacy: bool, earlier: Path, tmp_path: Path) -> None:
    """By either entrypoint."""
    start = f"{earlier / 'run'}@last"
    path = change(earlier / "experiment.yaml", init_checkpoint=start, max_steps=10, learning_rate=0.0)
    trial = Trial(tmp_path, json.loads(path.read_text()), legacy=legacy)
    with StandInMaster() as master:
        run_here(trial, master)
        assert tiny.equal(trial.weights(master), tiny.weights(earlier / "run", 10))


# ---- a model of one's own ----


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (
            "own_models:build_raeder",
            "hyperparameters.model: own_models has no build_raeder: did you mean build_reader?",
        ),
        (
            {"hidden_size": 3},
            "hyperparameters.model: must be a name, or a mapping with name and args, got {'hidden_size': 3}",
        ),
        ({"_target_": "build_reader"}, "must be a registered model (AutoModel) or package.module:object, got 'build_"),
        ({"_target_": None}, "must be a registered model (AutoModel) or package.module:object, got null"),
        (
            {"_target_": "no_models.build"},
            "hyperparameters.model: there is no module no_models, got no_models.build",
        ),
        ({"_target_": "own_models.build_raeder"}, "own_models has no build_raeder: did you mean build_reader?"),
        (
            {"_target_": "own_models.NOT_CALLABLE"},
            "must name a function or a class, got own_models.NOT_CALLABLE, a int",
        ),
        (
            {**READER, "hiden_size": 3, "x": 1},
            "hyperparameters.model.hiden_size: own_models.build_reader has no such argument (it takes hidden_size, "
            "kernel): did you mean hidden_size?\nhyperparameters.model.x: own_models.build_reader has no such",
        ),
        (
            {"_target_": "own_models.SpanReader", "words": 3},
            "hyperparameters.model.hidden_size: is required by own_models.SpanReader",
        ),
        ({"_target_": "broken_models.build"}, "hyperparameters.model: broken_models cannot be imported:\n"),
        ({"_target_": "asking_models.build"}, "ModuleNotFoundError: No module named 'not_installed'"),
    ],
)
def test_a_builder_that_cannot_be_called_is_refused(
    model: Any, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is built; every error is told."""
    (tmp_path / "broken_models.py").write_text("raise ValueError('not\\n today')")
    (tmp_path / "asking_models.py").write_text("import not_installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=re.escape(told)) as error:
        MODELS.from_config(model, "hyperparameters.model")
    assert told in str(error.value)


def test_a_builder_gets_what_it_asks_for_by_name() -> None:
    """Arguments as they are; config and tokenizer only where there is a parameter for them."""
    model = built({**READER, "kernel": 5}, tokenizer=range(7), config=None)
    assert model.embed.weight.shape == (7, 8)
    assert model.mix.kernel_size == (5,)
    own = {"name": "own_models:build_for_config"}
    config = BertConfig(vocab_size=9, hidden_size=4)
    assert built(own, config=config, tokenizer=None).embed.weight.shape == (9, 4)
    with pytest.raises(ConfigError, match=r"model: own_models\.build_number must give a torch\.nn\.Module, got a int"):
        built({"_target_": "own_models.build_number", "any": 1}, config=None, tokenizer=None)
    hparams = {"model": own, "tokenizer_name": "x"}
    with pytest.raises(ConfigError, match="asks for the config, and none is built: give pretrained_model_name_or_path"):
        read_init_source(hparams, ("config", "tokenizer", "model"), MODELS.from_config(own, "hyperparameters.model"))


def built(model: Any, **parts: Any) -> Any:
    chosen = MODELS.from_config(model, "hyperparameters.model")
    trial = SimpleNamespace(**parts, model_kwargs={}, trainer=SimpleNamespace(use_pretrained_weights=False))
    return TaskTrial.build_registered_model(trial, chosen)


def test_the_loss_is_found_in_mappings_and_objects() -> None:
    """And in nothing else."""
    loss = torch.tensor(1.0)

    class Output:
        pass

    output = Output()
    assert loss_of(output) is None
    output.loss = loss  # type: ignore[attr-defined]
    assert loss_of(output) is loss
    assert loss_of({"loss": loss}) is loss
    assert loss_of({"loss": None}) is loss_of((loss,)) is loss_of({}) is None


def test_qa_trial_trains_a_reader_of_ones_own(earlier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its logits are all that the trial needs; only the tokenizer is loaded, and interpolation reaches arguments."""
    names = {"pretrained_model_name_or_path": None, "tokenizer_name": str(earlier / "model")}
    model = {**READER, "hidden_size": "${data.size}"}
    config = change(earlier / "experiment.yaml", **names, model=model, data={"size": 12})
    assert run(config, tmp_path / "run") == 0
    training = tiny.reports(tmp_path / "run", "training")
    assert training[-1]["loss"] < training[0]["loss"]
    assert json.loads((tmp_path / "run/predictions.json").read_text())
    saved = tmp_path / "run/checkpoints/checkpoint-10/pretrained"
    assert tiny.equal(load_file(saved / "model.safetensors"), tiny.weights(tmp_path / "run", 10))
    assert AutoTokenizer.from_pretrained(saved).is_fast
    # and it goes on from there
    again = change(config, init_checkpoint=f"{tmp_path / 'run'}@last", max_steps=1, learning_rate=0.0)
    assert run(again, tmp_path / "again") == 0
    assert tiny.equal(tiny.weights(tmp_path / "again", 1), tiny.weights(tmp_path / "run", 10))
    wider = change(config, init_checkpoint=f"{tmp_path / 'run'}@last", data={"size": 13})
    assert run(wider, tmp_path / "wider") == 2
    monkeypatch.setitem(sys.modules, QATrial.__module__, sys.modules[QATrial.__module__])  # it imports another copy
    trial: Any = pytorch.load_trial_from_checkpoint_path(str(saved.parent))
    assert tiny.equal(trial.model.state_dict(), tiny.weights(tmp_path / "run", 10))


@pytest.fixture
def parity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configuration of a trial without anything of transformers."""
    path = own_trials.experiment(tmp_path)
    monkeypatch.chdir(tmp_path)
    return path


def trial_of(path: Path, name: str, **changes: Any) -> Path:
    copy = change(path, **changes)
    config = json.loads(copy.read_text())
    config["entrypoint"] = f"own_trials:{name}"
    copy.write_text(json.dumps(config))
    return copy


def test_a_model_with_its_own_loss_needs_nothing_else(parity: Path, tmp_path: Path) -> None:
    """No name, no config, no tokenizer; tied weights are saved once, and found again."""
    assert run(parity, tmp_path / "run") == 0
    training = tiny.reports(tmp_path / "run", "training")
    assert training[-1]["loss"] < 0.7 * training[0]["loss"]
    again = change(parity, init_checkpoint=f"{tmp_path / 'run'}@last", max_steps=1, learning_rate=0.0)
    assert run(again, tmp_path / "again") == 0
    assert tiny.equal(tiny.weights(tmp_path / "again", 1), tiny.weights(tmp_path / "run", 20))


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_model_with_a_child_called_module_resumes(ranks: int, parity: Path, tmp_path: Path) -> None:
    """Under DistributedDataParallel and without it; its weights keep their names."""
    config = change(parity, model={"_target_": "own_models.Nested"}, max_steps=4, save_steps=2)

    def train(path: Path, *more: str) -> None:
        arguments = [str(path), "--output-dir", str(tmp_path / "run"), *more]
        if ranks == 1:
            assert run(path, tmp_path / "run", *more) == 0
        else:
            assert forked.run_ranks(ranks, arguments, tmp_path / "logs") == [0] * ranks

    train(config)
    whole = tiny.weights(tmp_path / "run", 4)
    assert set(whole) == {"module.embed.weight", "module.tied"}
    shutil.rmtree(tmp_path / "run/checkpoints/checkpoint-4")
    train(config, "--resume", "latest")
    assert tiny.equal(tiny.weights(tmp_path / "run", 4), whole)
    saved = load_file(tmp_path / "run/checkpoints/checkpoint-4/pretrained/model.safetensors")
    assert set(saved) <= {"module.embed.weight", "module.tied"}


@pytest.mark.parametrize("loss", ["none", "tuple", "vector"])
def test_a_model_without_a_loss_needs_compute_loss(
    loss: str, parity: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Said before training; a trial with compute_loss trains it."""
    model = {"_target_": "own_models.Classifier", "loss": loss}
    assert run(change(parity, model=model), tmp_path / "run") == 2
    found = "one of shape (2,)" if loss == "vector" else "none"
    text = "own_models.Classifier must give a loss (a scalar), since the trial has no compute_loss, got "
    assert f"{text}{found}" in capsys.readouterr().err
    if loss == "none":
        assert run(trial_of(parity, "OwnLossTrial", model=model), tmp_path / "own") == 0


def test_a_model_that_cannot_take_the_batch_is_told(
    parity: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the batch's columns."""
    assert run(trial_of(parity, "ForgetfulTrial"), tmp_path / "run") == 2
    told = capsys.readouterr().err
    assert "own_models.Classifier cannot be called with a training batch (input_ids): " in told
    assert "missing 1 required positional argument: 'labels'" in told


def test_parts_that_a_trial_leaves_out_are_not_built(
    parity: Path, earlier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A trial says so by default_parts; one without a model needs the hyperparameter."""
    assert run(change(parity, model=None), tmp_path / "run") == 2
    assert "hyperparameters.model: is required, since ParityTrial has no model of its own" in capsys.readouterr().err
    alone = trial_of(parity, "NeedsTokenizerTrial", model=None, max_steps=1)
    assert run(alone, tmp_path / "run") == 2
    assert "is required (or config_name, tokenizer_name and model_name one by one)" in capsys.readouterr().err
    assert run(change(alone, tokenizer_name=str(earlier / "model")), tmp_path / "run") == 0
    assert (tmp_path / "run/checkpoints/checkpoint-1/pretrained/tokenizer.json").is_file()


def test_gradient_checkpointing_needs_a_model_that_knows_it(
    parity: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A plain module does not."""
    assert run(change(parity, gradient_checkpointing=True), tmp_path / "run") == 2
    assert "hyperparameters.gradient_checkpointing: Classifier does not know how to do it" in capsys.readouterr().err


def test_plain_modules_name_what_does_not_fit(tmp_path: Path) -> None:
    """As transformers' models do."""
    save_weights(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 3)), tmp_path)
    other = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    with pytest.raises(ConfigError, match="does not fit the model: 2 weights of the model are not in it") as error:
        load_weights(other, tmp_path)
    assert [line.partition("the model: ")[2] for line in error.value.errors] == [
        "2 weights of the model are not in it: 2.weight, 2.bias",
        "2 weights in it are not the model's: 1.bias, 1.weight",
        "2 weights have another shape: 0.bias 3 there, 4 here, 0.weight 3x2 there, 4x2 here",
    ]
    with pytest.raises(ConfigError, match=r"has no model\.safetensors"):
        load_weights(other, tmp_path / "nowhere")
