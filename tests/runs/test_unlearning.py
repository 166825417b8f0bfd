"""Objectives in a run: batches keyed by name, the reference model, exact resume, ranks."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import forked
import pytest
import tiny
import torch
from tiny_fusion import write_lines
from tiny_generation import causal_folder, changed, experiment
from tiny_records import FILES, TOFU
from watching import watch

from model_hub_rqa import train
from model_hub_rqa.errors import ConfigError
from model_hub_rqa.registry import RegisteredObject
from model_hub_rqa.runtime import experiments
from model_hub_rqa.trials.generation import GenerationTrial

SETS = {"train": ["forget", "retain"], "validation": ["forget", "retain"], "mixing": "keyed"}


SEARCHER = {"metric": "retain/eval_loss", "smaller_is_better": True}


def unlearning(folder: Path, objective: Any, *, dropout: float = 0.0, data: Any = SETS, **changes: Any) -> Path:
    """Three questions to forget and six to keep."""
    folder.mkdir(parents=True, exist_ok=True)
    sets = {}
    for name, rows in (("forget", TOFU[:3]), ("retain", TOFU[3:])):
        file = write_lines(folder / f"{name}.jsonl", rows)
        hf_args = {"path": "json", "data_files": file, "cache_dir": str(folder / "hf")}
        sets[name] = {"handler": "QADataset", "args": {"hf_args": hf_args, "predict_with_generate": False}}
    settings = {"global_batch_size": 2, "max_steps": 4, "objective": objective, **changes}
    config = experiment(folder, dropout=dropout, **settings)
    return changed(config, data={**FILES, "datasets": sets, **data}, searcher=SEARCHER)


def run(config: Path, output: Path, *arguments: str) -> None:
    assert train.main([str(config), "--output-dir", str(output), *arguments]) == 0


def loss_of(trial: Any, model: Any, side: str, name: str) -> float:
    """The mean over a set's examples of the mean over an answer's tokens."""
    features = [trial.datasets[side][i] for i in trial.sets[side][name]]
    with torch.no_grad():
        losses, tokens = trial.task.answer_losses(model, trial.collator(features))
    return float((losses / tokens).mean())


NAME = "pretrained_model_name_or_path"
OBJECTIVES = [
    {"name": "GradDiff", "args": {"gamma": 0.5}},
    {"name": "NPO", "args": {"beta": 0.5, "alpha": 0.5}},
]


@pytest.mark.parametrize("first", ["pretrained_model_name_or_path", "init_checkpoint"])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda one: one["name"])
def test_the_first_losses_are_those_of_the_formula(
    objective: dict[str, Any], first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the initial model, which is its own reference, with a batch of each set by its name."""
    seen: list[Any] = []
    plain = GenerationTrial.training_loss

    def noting(self: Any, batch: Any) -> torch.Tensor:
        loss = plain(self, batch)
        with torch.no_grad():
            parts = {name: float(self.compute_loss(part)) for name, part in batch.items()}
        seen.append((loss.item(), parts, {name: len(part["input_ids"]) for name, part in batch.items()}))
        return loss

    monkeypatch.setattr(GenerationTrial, "training_loss", noting)
    config = unlearning(tmp_path, objective, max_steps=1)
    run(changed(config, hyperparameters={**dict.fromkeys([NAME]), first: str(tmp_path / "model")}), tmp_path / "run")
    ((loss, parts, sizes),) = seen
    assert sizes == {"forget": 2, "retain": 2}
    if objective["name"] == "GradDiff":
        assert loss == pytest.approx(-0.5 * parts["forget"] + parts["retain"], abs=1e-5)
    else:
        assert loss == pytest.approx(2 / 0.5 * math.log(2) + 0.5 * parts["retain"], abs=1e-5)


@pytest.mark.parametrize(
    ("objective", "data"),
    [
        ("GradAscent", {"train": ["forget"], "validation": ["forget", "retain"]}),
        ({"name": "GradDiff"}, SETS),
        ({"name": "NPO", "args": {"alpha": 0}}, {**SETS, "train": ["forget"]}),
    ],
    ids=["GradAscent", "GradDiff", "NPO"],
)
def test_what_is_to_be_forgotten_is(objective: Any, data: Any, tmp_path: Path) -> None:
    """The loss on the forget set rises; with a retain set, more than that on what is to be kept."""
    config = unlearning(tmp_path, objective, data=data, max_steps=30, learning_rate=3e-3, eval_steps=30, save_steps=30)
    trial = experiments.validate(experiments.load_experiment(str(config)))
    trial.context = SimpleNamespace(device=torch.device("cpu"))
    trial.collator = trial.build_collator()
    from transformers import AutoModelForCausalLM

    folders = (tmp_path / "model", tmp_path / "run/checkpoints/checkpoint-30/pretrained")
    run(config, tmp_path / "run")
    models = [AutoModelForCausalLM.from_pretrained(folder).eval() for folder in folders]
    forget, retain = ([loss_of(trial, model, "validation", name) for model in models] for name in ("forget", "retain"))
    assert forget[1] > forget[0] + 0.1
    if data is SETS:
        assert retain[1] < retain[0]


def test_the_reference_stays_the_initial_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every step NPO's loss is that of the formula, with the folder's own weights as the reference."""
    from transformers import AutoModelForCausalLM

    config = unlearning(tmp_path, {"name": "NPO", "args": {"beta": 0.5, "alpha": 0}}, max_steps=3, learning_rate=1e-2)
    initial: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    seen: list[tuple[float, float]] = []
    plain = GenerationTrial.training_loss

    def noting(self: Any, batch: Any) -> torch.Tensor:
        loss = plain(self, batch)
        with torch.no_grad():
            now, then = (self.task.answer_log_probs(model, batch["forget"]) for model in (self.model, initial))
        seen.append((loss.item(), float(2 / 0.5 * torch.log1p((now - then).exp() ** 0.5).mean())))
        return loss

    monkeypatch.setattr(GenerationTrial, "training_loss", noting)
    run(config, tmp_path / "run")
    assert [loss for loss, _ in seen] == pytest.approx([expected for _, expected in seen], rel=1e-4)
    assert seen[0][0] - seen[2][0] > 0.1  # so model and reference were apart


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda one: one["name"])
def test_resume_is_exact(objective: dict[str, Any], tmp_path: Path) -> None:
    """With dropout: resumed after two steps, the weights are bit for bit those of the whole run; the
    reference is the initial model again, and no checkpoint holds it."""
    config = unlearning(tmp_path, objective, dropout=0.1, save_steps=2)
    run(config, tmp_path / "whole")
    assert not tiny.same(tiny.weights(tmp_path / "whole", 2), tiny.weights(tmp_path / "whole", 4))
    run(config, tmp_path / "resumed", "--resume", str(tmp_path / "whole/checkpoints/checkpoint-2"))
    assert tiny.same(tiny.weights(tmp_path / "whole", 4), tiny.weights(tmp_path / "resumed", 4))
    state = torch.load(tmp_path / "whole/checkpoints/checkpoint-4/state_dict.pth", weights_only=True)
    assert len(state["models_state_dict"]) == 1


@pytest.mark.parametrize(
    ("objective", "data", "steps"),
    [
        ({"name": "GradDiff"}, {}, 2),  # 3 questions to forget, 2 a batch; 6 to keep
        ({"name": "NPO"}, {}, 2),
        ({"name": "NPO"}, {"anchor": "retain"}, 3),
        ({"name": "NPO"}, {"anchor": "forget"}, 2),
    ],
)
def test_an_epoch_is_the_anchors(objective: dict[str, Any], data: Any, steps: int, tmp_path: Path) -> None:
    """That of the objective, or the one that the configuration names."""
    path = unlearning(tmp_path, objective, data={**SETS, **data}, max_steps=-1, num_train_epochs=1)
    assert train.main([str(path), "--output-dir", str(tmp_path / "run")]) == 0
    assert tiny.reports(tmp_path / "run", "training")[-1]["steps"] == steps


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"anchor": "forgot"}, r"data.anchor: must be a set of data.train \(forget, retain\), got 'forgot'.*forget"),
        ({"ancor": "forget"}, r"data\.ancor is not a known name: did you mean anchor\?"),
        ({"anchor": "forget", "mixing": "by_size"}, "data.anchor: needs mixing: keyed beside it, got mixing: by_size"),
    ],
)
def test_an_anchor_that_is_wrong(data: Any, said: str, tmp_path: Path) -> None:
    path = unlearning(tmp_path, {"name": "GradDiff"}, data={**SETS, **data})
    with pytest.raises(ConfigError, match=said):
        experiments.validate(experiments.load_experiment(str(path)))


def test_unknown_keys_beside_an_objective(tmp_path: Path) -> None:
    """They are errors, too."""
    path = unlearning(tmp_path, {"name": "GradDiff", "anchor": "forget"})
    with pytest.raises(ConfigError, match=r"hyperparameters\.objective\.anchor"):
        experiments.validate(experiments.load_experiment(str(path)))


@pytest.mark.slow
def test_two_ranks_train_as_one(tmp_path: Path) -> None:
    """Two forward passes of a step and a model that DistributedDataParallel does not see: the weights are those of
    one rank, but for rounding."""
    config = unlearning(tmp_path, OBJECTIVES[1], adam_epsilon=1e-6)
    for ranks in (1, 2):
        argv = [str(config), "--output-dir", str(tmp_path / str(ranks))]
        assert forked.run_ranks(ranks, argv, tmp_path / f"logs-{ranks}") == [0] * ranks, (
            tmp_path / f"logs-{ranks}/0.log"
        ).read_text()
    assert tiny.equal(tiny.weights(tmp_path / "1", 4), tiny.weights(tmp_path / "2", 4), atol=1e-5)


@pytest.mark.parametrize(
    ("objective", "data", "error"),
    [
        ("NPO", {"train": ["forget"], "mixing": "keyed"}, "there is no retain set (got forget)"),
        (
            "NPOO",
            {},
            "must be a registered objective (GradAscent, GradDiff, NPO, finetune) or package.module:obje",
        ),
        ("NPO", {"mixing": "by_size"}, "NPO needs data.mixing: keyed, so that each batch has forget and retain"),
        ("finetune", {"mixing": "keyed"}, "data.mixing: keyed needs a trial whose compute_loss takes batches by name"),
    ],
)
def test_sets_that_are_missing(
    objective: str, data: dict[str, Any], error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Said with exit code 2, before a model is loaded."""
    config = unlearning(tmp_path, objective, data={**SETS, **data})
    (tmp_path / "model/model.safetensors").write_bytes(b"never read")
    assert train.main([str(config), "--output-dir", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert error in said
    assert len(said.strip().split("\n")) == 1


def test_an_objective_for_a_trial_without_probabilities(tmp_path: Path) -> None:
    """An extractive reader takes an ascent on its own loss, and no NPO."""
    config = tiny.experiment(tmp_path, max_steps=2, objective="GradAscent")
    run(config, tmp_path / "run")
    losses = [report["loss"] for report in tiny.reports(tmp_path / "run", "training")]
    assert all(loss < 0 for loss in losses)
    content = json.loads(config.read_text())
    content["hyperparameters"]["objective"] = {"name": "NPO", "args": {"alpha": 0}}
    forget = {"name": "forget", "train_file": content["data"].pop("train_file")}
    content["data"] |= {"mixing": "keyed", "train": [forget]}
    config.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="NPO needs the probabilities of answers, which QATrial does not give"):
        experiments.validate(experiments.load_experiment(str(config)))


def test_components_in_the_place_of_the_trials_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registered model and a registered collator are built with what the trial offers, and train."""
    watched, made, build = watch(monkeypatch), {}, RegisteredObject.build

    def noted(self: RegisteredObject, **injected: Any) -> Any:
        made[self.name] = build(self, **injected)
        return made[self.name]

    monkeypatch.setattr(RegisteredObject, "build", noted)
    causal_folder(tmp_path / "model")
    model = {"handler": "AutoModel", "args": {"model_mode": "causal-lm"}}
    config = experiment(tmp_path, max_steps=2, model=model)
    run(changed(config, data={"collator": "GenerationCollator"}), tmp_path / "chosen")
    assert (watched.trial.model, watched.trial.collator) == (made["AutoModel"], made["GenerationCollator"])
    made.clear()
    run(experiment(tmp_path, max_steps=2), tmp_path / "own")
    assert made == {}
    assert tiny.same(tiny.weights(tmp_path / "chosen", 2), tiny.weights(tmp_path / "own", 2))
