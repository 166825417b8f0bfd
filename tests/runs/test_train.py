"""Full local runs of QATrial, on a tiny model: what they write, how they resume, and what they refuse."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from determined import pytorch, util
from transformers import AutoModelForQuestionAnswering, AutoTokenizer
from watching import watch

from model_hub_rqa import train
from model_hub_rqa.errors import ConfigError
from model_hub_rqa.runtime import experiments
from model_hub_rqa.trials.qa import QATrial


def run(config: Path, output: Path, *options: str) -> int:
    return train.main([str(config), "--output-dir", str(output), *options])


def overrides(**changes: Any) -> list[str]:
    return [word for name, value in changes.items() for word in ("--config", f"hyperparameters.{name}={value}")]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a configuration and, in ``run``, the finished run of it: 2 epochs of 5 steps."""
    folder = tmp_path_factory.mktemp("done")
    assert run(tiny.experiment(folder), folder / "run") == 0
    return folder


def test_a_run_fills_its_folder(done: Path) -> None:
    """Checkpoints, metrics, predictions, the resolved configuration, a summary, a log and TensorBoard events."""
    folder = done / "run"
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *("checkpoints", "metrics.jsonl", "predictions.json", "nbest_predictions.json", "config.yaml", "run.log"),
        *("tensorboard", "summary.json", ".lock"),
    }
    assert any(path.name.startswith("events.out.tfevents") for path in (folder / "tensorboard").iterdir())
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"checkpoint-5", "checkpoint-10"}
    training, validation = tiny.reports(folder, "training"), tiny.reports(folder, "validation")
    assert [report["steps"] for report in training] == list(range(1, 11))
    assert [report["steps"] for report in validation] == [5, 10]
    assert training[-1]["loss"] < training[0]["loss"]
    assert {"exact_match", "f1"} <= validation[0].keys()


def test_a_referred_checkpoint_policy_is_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Training refuses, as `validate` does, what the policy behind a reference does not allow."""
    path = tiny.experiment(tmp_path, load_best_model_at_end=True)
    config = json.loads(path.read_text()) | {"policy": "none", "checkpoint_policy": "${policy}"}
    path.write_text(json.dumps(config))
    expected = "hyperparameters.load_best_model_at_end: must be false beside checkpoint_policy: none"
    with pytest.raises(ConfigError, match=re.escape(expected)):
        experiments.validate(experiments.load_experiment(str(path)))
    assert run(path, tmp_path / "run", "--test") == 2
    assert expected in capsys.readouterr().err


def test_the_learning_rate_falls_linearly(done: Path) -> None:
    """The schedule counts optimizer steps of the whole run."""
    rates = [report["learning_rate"] for report in tiny.reports(done / "run", "training")]
    assert rates == pytest.approx([1e-3 * (1 - step / 10) for step in range(10)])


def test_training_prints_what_scoring_gives(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The F1 of the last validation is that of rqa score on the written predictions, to the last digit."""
    from model_hub_rqa.cli import main

    predictions, data = done / "run/predictions.json", done / "validation.json"
    assert main(["score", str(predictions), "--data", str(data)]) == 0
    scores = json.loads(capsys.readouterr().out)
    last = tiny.reports(done / "run", "validation")[-1]
    assert (scores.pop("language"), scores.pop("answer_rules")) == ("en", "SQuAD")
    assert scores == {name: last[name] for name in ("exact_match", "f1")}


def test_a_checkpoint_holds_a_plain_model_folder(done: Path) -> None:
    """transformers loads weights and tokenizer from it, and the weights are those of the training state."""
    checkpoint = done / "run/checkpoints/checkpoint-10"
    model = AutoModelForQuestionAnswering.from_pretrained(checkpoint / "pretrained")
    assert tiny.equal(model.state_dict(), tiny.weights(done / "run", 10))
    assert AutoTokenizer.from_pretrained(checkpoint / "pretrained").is_fast
    assert json.loads((checkpoint / "pretrained/reader.json").read_text())["max_seq_length"] == 64


def test_determined_loads_the_checkpoint(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """load_trial_from_checkpoint_path gives the trial back with its weights, on today's torch."""
    monkeypatch.setitem(sys.modules, QATrial.__module__, sys.modules[QATrial.__module__])  # it imports another copy
    trial: Any = pytorch.load_trial_from_checkpoint_path(str(done / "run/checkpoints/checkpoint-10"))
    assert tiny.equal(trial.model.state_dict(), tiny.weights(done / "run", 10))


def test_the_same_seed_gives_the_same_weights(done: Path) -> None:
    """To the last bit; another seed gives others."""
    config = done / "experiment.yaml"
    run(config, done / "again")
    run(config, done / "other", *overrides(seed=7))
    assert tiny.equal(tiny.weights(done / "run", 10), tiny.weights(done / "again", 10))
    assert not tiny.equal(tiny.weights(done / "run", 10), tiny.weights(done / "other", 10))


def test_accumulated_batches_equal_one_large_batch(tmp_path: Path) -> None:
    """12 at once and twice 6 give equal weights to 1e-6 after 10 steps, though batches are padded differently.

    With Adam's epsilon of squad.yaml: a smaller one blows up rounding. The last LayerNorm's bias shifts all logits
    alike, so its true gradient is zero, and what is left of it is noise.
    """
    config = tiny.experiment(tmp_path, train=60, max_steps=10, learning_rate=3e-4, adam_epsilon=1e-6)
    run(config, tmp_path / "whole", *overrides(global_batch_size=12))
    run(config, tmp_path / "parts", *overrides(global_batch_size=6, gradient_accumulation_steps=2))
    whole, parts = tiny.weights(tmp_path / "whole", 10), tiny.weights(tmp_path / "parts", 10)
    assert tiny.equal(whole, parts, atol=1e-6)
    assert not tiny.equal(whole, AutoModelForQuestionAnswering.from_pretrained(tmp_path / "model").state_dict(), 1e-4)
    rates = [report["learning_rate"] for report in tiny.reports(tmp_path / "parts", "training")]
    assert len(rates) == 10


def test_gradient_checkpointing_changes_nothing_but_memory(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights after a step equal those without it, though each layer computes twice."""
    for name, given, calls in (("a", "true", 4), ("b", "false", 2)):
        watched = watch(monkeypatch)
        assert (
            run(done / "experiment.yaml", tmp_path / name, *overrides(max_steps=2, gradient_checkpointing=given)) == 0
        )
        assert watched.trial.model.is_gradient_checkpointing == (given == "true")
        assert watched.layer_calls == calls
    assert tiny.equal(tiny.weights(tmp_path / "a", 2), tiny.weights(tmp_path / "b", 2), atol=1e-6)


def test_bf16_trains_close_to_fp32(done: Path, tmp_path: Path) -> None:
    """Autocast computes in bf16 and keeps fp32 weights, metrics and checkpoints."""
    for bf16 in ("true", "false"):
        # With a small epsilon, Adam makes whole steps of what is rounding noise, and nothing would be close.
        settings = overrides(bf16=bf16, adam_epsilon="1e-3")
        assert run(done / "experiment.yaml", tmp_path / bf16, *settings) == 0
    half, full = (tiny.weights(tmp_path / bf16, 10) for bf16 in ("true", "false"))
    assert all(weight.dtype == torch.float32 for weight in half.values())
    assert tiny.equal(half, full, atol=2e-3)
    assert not tiny.equal(half, full)


def test_gradients_are_clipped(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """max_grad_norm bounds the norm of what the optimizer sees; 0 leaves it."""
    norms: list[float] = []
    step = torch.optim.AdamW.step

    def watched(self: torch.optim.AdamW, *args: Any, **kwargs: Any) -> Any:
        parameters = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms.append(float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in parameters]))))
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    for limit in (0.01, 0):
        run(done / "experiment.yaml", tmp_path / str(limit), *overrides(max_steps=1, max_grad_norm=limit))
    assert norms[0] == pytest.approx(0.01, rel=1e-3)
    assert norms[1] > 0.1


def test_unanswerable_questions_are_scored(tmp_path: Path) -> None:
    """With version_2_with_negative the official v2.0 metrics are reported, with real thresholds, and all as JSON."""
    assert run(tiny.experiment(tmp_path, unanswerable=4), tmp_path / "run") == 0
    last = tiny.reports(tmp_path / "run", "validation")[-1]
    wanted = ("exact", "f1", "total", "HasAns_f1", "NoAns_f1", "best_exact", "best_f1", "best_f1_thresh")
    assert set(wanted) <= last.keys()
    assert (last["total"], last["HasAns_total"], last["NoAns_total"]) == (11, 7, 4)
    assert last["best_f1"] >= last["f1"] - 1e-9
    odds = json.loads((tmp_path / "run/null_odds.json").read_text())
    assert len(odds) == 11
    assert len(set(odds.values())) > 5
    assert util.json_encode(last)


def test_test_mode_takes_one_batch(tmp_path: Path) -> None:
    """--test trains one batch, validates one, checkpoints, and ends."""
    assert run(tiny.experiment(tmp_path), tmp_path / "run", "--test") == 0
    assert [report["steps"] for report in tiny.reports(tmp_path / "run", "training")] == [1]
    assert len(json.loads((tmp_path / "run/predictions.json").read_text())) == 8


def test_old_checkpoints_are_removed_but_not_the_best(done: Path, tmp_path: Path) -> None:
    """save_total_limit keeps the newest, and beside them the best by the searcher's metric."""
    changes = overrides(num_train_epochs=6, save_total_limit=1)
    assert run(done / "experiment.yaml", tmp_path / "run", *changes) == 0
    best = max(tiny.reports(tmp_path / "run", "validation"), key=lambda report: report["f1"])["steps"]
    kept = {path.name for path in (tmp_path / "run/checkpoints").iterdir()}
    assert kept == {f"checkpoint-{best}", "checkpoint-30"}


def test_search_specifications_are_resolved(tmp_path: Path) -> None:
    """A configuration of a search runs locally: every range becomes its documented fixed value."""
    specs = {
        "global_batch_size": {"type": "const", "val": 8},
        "learning_rate": {"type": "log", "base": 10, "minval": -4, "maxval": -2},
        "weight_decay": {"type": "categorical", "vals": [0.01, 0.1]},
        "max_steps": {"type": "int", "minval": 1, "maxval": 3},
    }
    assert run(tiny.experiment(tmp_path, **specs), tmp_path / "run") == 0
    assert [report["learning_rate"] for report in tiny.reports(tmp_path / "run", "training")] == [1e-3, 5e-4]
    resolved = experiments.load_experiment(str(tmp_path / "run/config.yaml")).hyperparameters
    assert (resolved["global_batch_size"], resolved["weight_decay"], resolved["max_steps"]) == (8, 0.01, 2)


def test_a_new_run_does_not_overwrite_another(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, and the words say how to go on."""
    assert run(done / "experiment.yaml", done / "run") == 2
    assert "--resume latest" in capsys.readouterr().err


BAD: dict[str, tuple[list[str], list[str]]] = {
    "several errors": (
        ["hyperparameters.learning_rate=-1", "data.doc_stride=64", "data.n_best_size=0", "hyperparameters.seed=x"],
        ["hyperparameters.learning_rate", "data.doc_stride", "data.n_best_size", "hyperparameters.seed"],
    ),
    "a model that is not there": (
        ["hyperparameters.pretrained_model_name_or_path=no/such-model"],
        ["no/such-model.*neither a folder nor in the hub's cache"],
    ),
    "windows longer than the model": (["data.max_seq_length=256"], ["data.max_seq_length: must be at most 128"]),
    "max_answer_length": (["data.max_answer_length=0"], ["data.max_answer_length: must be >= 1, got 0"]),
    "version 2 of version 1": (["data.version_2_with_negative=true"], ["set version_2_with_negative: false"]),
    "squad as version 2": (
        [
            *(f"data.{change}" for change in ("train_file=null", "validation_file=null", "dataset_name=squad")),
            "data.version_2_with_negative=true",
        ],
        ["squad"],
    ),
    "no batch size": (["hyperparameters.global_batch_size=0"], ["hyperparameters.global_batch_size"]),
    "fp16 without a GPU": (["hyperparameters.fp16=true"], ["hyperparameters.fp16: needs a CUDA GPU"]),
    "no trial": (["entrypoint=python3 train.py"], ["entrypoint: must be module:Class"]),
    "no such trial": (["entrypoint=model_hub_rqa.trials.qa:Nothing"], ["entrypoint: .*has no Nothing"]),
    "no metric": (["searcher.metric=null"], ["searcher.metric: must name"]),
    "a file that is not there": (["data.train_file=nowhere.json"], ["nowhere.json"]),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_error_is_named_before_a_model_is_loaded(
    kind: str, done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2, every error in a line, no model built, and rqa validate says the same."""
    if torch.cuda.is_available() and "fp16" in kind:
        pytest.skip("there is a GPU here")
    from model_hub_rqa.cli import main

    monkeypatch.setattr(QATrial, "build_model", lambda self: pytest.fail("a model was built"))
    changes, wanted = BAD[kind]
    options = [word for change in changes for word in ("--config", change)]
    assert run(done / "experiment.yaml", tmp_path / "run", *options) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    for pattern in wanted:
        assert re.search(pattern, said), said
    if kind != "no batch size":
        assert main(["validate", str(done / "experiment.yaml"), *options]) == 2


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An id beyond the embeddings would fail in the middle of training; it is said before the first step."""
    tiny.model_folder(tmp_path / "model", vocab_size=50)
    assert run(tiny.experiment(tmp_path), tmp_path / "run") == 2
    assert re.search("tokenizer_name: the tokenizer has .* tokens", capsys.readouterr().err)


def test_a_misspelt_name_is_pointed_out(done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The run does not begin, and the nearest right name is said."""
    assert run(done / "experiment.yaml", tmp_path / "run", "--test", *overrides(learnig_rate=1)) == 2
    assert re.search("hyperparameters.learnig_rate.*learning_rate", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("entrypoint", "expected"),
    [
        ("model_hub_rqa.trials.qa:QATrial", "model_hub_rqa.trials.qa:QATrial"),
        ("python3 -m x -- python3 -m model_hub_rqa.train --trial a.b:C", "a.b:C"),
        ("python3 -m model_hub_rqa.train --trial=a.b:C.D", "a.b:C.D"),
        (["python3", "-m", "model_hub_rqa.train", "--trial", "a:C"], "a:C"),
        ("python3 train.py", None),
        ("python3 train.py --trial", None),
        (None, None),
        (7, None),
    ],
)
def test_the_entrypoint_names_the_trial(entrypoint: Any, expected: str | None) -> None:
    """In either form: module:Class, or a script with --trial."""
    from model_hub_rqa.config.experiment import trial_class_of

    assert trial_class_of(entrypoint) == expected


OWN_TRIAL = """
from model_hub_rqa.trials.qa import QATrial

class Loud(QATrial):
    def compute_metrics(self, values):
        return {**super().compute_metrics(values), "loud": 1.0}
"""


@pytest.mark.slow
def test_a_trial_of_ones_own_is_found_in_the_working_directory(tmp_path: Path) -> None:
    """A subclass in a file beside the configuration runs, and its file (only it) is kept in the checkpoint."""
    config = tiny.experiment(tmp_path, max_steps=1)
    (tmp_path / "mine.py").write_text(OWN_TRIAL)
    command = [sys.executable, "-m", "model_hub_rqa.train", config.name, "--config", "entrypoint=mine:Loud"]
    subprocess.run(command, cwd=tmp_path, check=True, env=_environment())
    folder = tmp_path / "runs/tiny"
    assert tiny.reports(folder, "validation")[-1]["loud"] == 1.0
    assert [path.name for path in (folder / "checkpoints/checkpoint-1/code").iterdir()] == ["mine.py"]


def _environment() -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    return {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
