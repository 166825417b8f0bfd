"""Which checkpoint of a run is taken, and whether the tokenizer beside the weights is theirs."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
from tokenizers_for_tests import bert

from model_hub_rqa import cli, train
from model_hub_rqa.checkpoints import check_tokenizer, choose_checkpoint, pretrained_folder, write_manifest
from model_hub_rqa.errors import CheckpointError


def run_of(
    folder: Path, values: dict[int, Any], *, smaller_is_better: bool | None = False, checkpoints: tuple[int, ...] = ()
) -> Path:
    """A run with checkpoints at the steps of ``values`` (f1 at a validation, None for none), and further ones."""
    record = {"searcher.metric": "f1", "searcher.smaller_is_better": smaller_is_better}
    for steps in {*values, *checkpoints}:
        checkpoint = folder / f"checkpoints/checkpoint-{steps}"
        (checkpoint / "pretrained").mkdir(parents=True)
        (checkpoint / "pretrained/config.json").write_text("{}")
        (checkpoint / "state_dict.pth").write_bytes(b"weights")
        (checkpoint / "trial_state.pkl").write_bytes(pickle.dumps({}))
        metadata = {"steps_completed": steps, **({} if smaller_is_better is None else {"run": record})}
        (checkpoint / "metadata.json").write_text(json.dumps(metadata))
        write_manifest(checkpoint)
    reports = [{"steps": n, "kind": "validation", "f1": value} for n, value in values.items() if value is not None]
    lines = [json.dumps({"steps": 1, "kind": "training", "f1": 1e9}), *map(json.dumps, reports), '{"steps": 9, "ki']
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    return folder


@pytest.mark.parametrize(
    ("values", "smaller_is_better", "choice", "steps", "words"),
    [
        ({2: 50.0, 4: 80.0, 6: 70.0}, False, None, 4, "the best of 3 by f1 (80)"),
        ({2: 50.0, 4: 80.0, 6: 70.0}, True, None, 2, "the best of 3 by f1 (50)"),
        ({2: 50.0, 4: 80.0, 6: 70.0}, False, "best", 4, "the best of 3 by f1 (80)"),
        ({2: 50.0, 4: 80.0, 6: 70.0}, False, "last", 6, "the newest"),
        ({2: 50.0, 4: 80.0, 6: 70.0}, False, "2", 2, "as asked"),
        ({2: 80.0, 4: 80.0, 10: 80.0}, False, None, 2, "the best of 3"),  # of equal ones the first
        ({2: 50.0, 4: "NaN", 6: None}, False, None, 2, "the best of 1"),  # only numbers count
        ({9: None, 10: None}, False, None, 10, "the newest"),  # by number and not by name
    ],
)
def test_a_checkpoint_of_a_run_is_chosen(
    values: dict[int, Any], smaller_is_better: bool, choice: str | None, steps: int, words: str, tmp_path: Path
) -> None:
    """Through its folder's name, too; what was taken is told."""
    run, told = run_of(tmp_path / "run", values, smaller_is_better=smaller_is_better), list[str]()
    name = run if choice is None else Path(f"{run}@{choice}")
    assert pretrained_folder(name, told.append) == run / f"checkpoints/checkpoint-{steps}/pretrained"
    assert len(told) == 1
    assert f"{run}: takes checkpoint-{steps}, {words}" in told[0]


def test_a_run_of_version_0_1_has_its_metric_in_the_summary(tmp_path: Path) -> None:
    """Without one nothing is best, and the newest is taken."""
    run = run_of(tmp_path / "run", {2: 50.0, 4: 80.0, 6: 70.0}, smaller_is_better=None)
    assert choose_checkpoint(run)[0].name == "checkpoint-6"
    with pytest.raises(CheckpointError, match="run@best: no checkpoint was validated"):
        choose_checkpoint(run, "best")
    (run / "summary.json").write_text(json.dumps({"metric": {"name": "f1", "smaller_is_better": False}}))
    assert choose_checkpoint(run)[0].name == "checkpoint-4"


def test_damaged_checkpoints_are_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The best whole one is taken, with a warning; a step that was asked for is refused."""
    run = run_of(tmp_path / "run", {2: 50.0, 4: 80.0, 6: 70.0})
    (run / "checkpoints/checkpoint-4/state_dict.pth").write_bytes(b"other")
    assert choose_checkpoint(run)[0].name == "checkpoint-6"
    assert "checkpoint-4/state_dict.pth: damaged" in caplog.text
    with pytest.raises(CheckpointError, match=r"checkpoint-4/state_dict\.pth: damaged"):
        choose_checkpoint(run, "4")
    with pytest.raises(CheckpointError, match=r"run@3: holds no checkpoint of that step, only of 2, 4, 6"):
        choose_checkpoint(run, "3")


def test_a_folder_may_have_such_a_name(tmp_path: Path) -> None:
    """What is there goes before what an @ may mean."""
    run = run_of(tmp_path / "run@2", {2: 50.0, 4: 80.0})
    assert pretrained_folder(run).parent.name == "checkpoint-4"
    assert pretrained_folder(Path(f"{run}@last")).parent.name == "checkpoint-4"


# ---- commands ----


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with validations and checkpoints at 2, 4 and 6."""
    folder = tmp_path_factory.mktemp("trained")
    config = tiny.experiment(folder, max_steps=6, save_steps=2, eval_steps=2, learning_rate=1e-2)
    assert train.main([str(config), "--output-dir", str(folder / "run")]) == 0
    return folder


QUESTION = ["--question", "What began in October?", "--context", "The oil crisis began in October."]


def test_commands_say_which_they_took(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr, once; a run that training wrote has its metric on record."""
    run = trained / "run"
    best = max(tiny.reports(run, "validation"), key=lambda report: (report["f1"], -report["steps"]))["steps"]
    capsys.readouterr()
    assert cli.main(["predict", "--checkpoint", str(run), *QUESTION]) == 0
    said = capsys.readouterr().err
    assert said.count(f"{run}: takes checkpoint-{best}, the best of 3 by f1") == 1
    assert cli.main(["export", "--checkpoint", f"{run}@2", "--output", str(tmp_path / "model")]) == 0
    assert f"{run}: takes checkpoint-2, as asked" in capsys.readouterr().err
    weights = run / "checkpoints/checkpoint-2/pretrained/model.safetensors"
    assert (tmp_path / "model/model.safetensors").read_bytes() == weights.read_bytes()
    questions = ["--data", str(trained / "validation.json"), "--output", str(tmp_path / "predictions.json")]
    assert cli.main(["predict", "--checkpoint", f"{run}@7", *questions]) == 2
    assert "holds no checkpoint of that step, only of 2, 4, 6" in capsys.readouterr().err


def spoil(folder: Path, how: str) -> None:
    """Takes the tokenizer away, or puts another in its place."""
    path = folder / "tokenizer.json"
    if how == "missing":
        for name in ("tokenizer.json", "vocab.txt"):
            (folder / name).unlink(missing_ok=True)
        return
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    if how == "other":  # of the same size
        (one, first), (other, second), *_ = [item for item in vocabulary.items() if item[0].isalpha()]
        vocabulary |= {one: second, other: first}
    else:
        vocabulary |= {f"more{number}": len(vocabulary) + number for number in range(10_000)}
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("missing", "its tokenizer is missing"),
        ("other", "its tokenizer is not the one that the model was trained with"),
        ("larger", "tokenizer"),
    ],
)
def test_a_tokenizer_that_is_not_the_models_is_refused(
    how: str, words: str, recorded: bool, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By every command that reads a checkpoint. Version 0.1 recorded none: there a tokenizer of the size will do."""
    model = tmp_path / "model"
    shutil.copytree(trained / "run/checkpoints/checkpoint-6/pretrained", model)
    settings = json.loads((model / "reader.json").read_text())
    assert len(settings["tokenizer_sha256"]) == 64
    if not recorded:
        del settings["tokenizer_sha256"]
        (model / "reader.json").write_text(json.dumps(settings))
    spoil(model, how)
    questions = str(tmp_path / "questions.jsonl")
    tiny.passages_file(Path(questions), 2)
    commands = [
        ["predict", "--checkpoint", str(model), *QUESTION],
        ["evaluate", "--checkpoint", str(model), "--data", questions, "--output-dir", str(tmp_path / "out")],
        ["export", "--checkpoint", str(model), "--output", str(tmp_path / "exported")],
    ]
    codes, said = [], []
    for command in commands:
        codes.append(cli.main(command))
        said.append(capsys.readouterr().err)
    if not recorded and how == "other":
        assert codes == [0, 0, 0], said
    elif not recorded and how == "missing":
        assert codes == [2, 2, 0], said  # a model of one's own may have none
    else:
        assert codes == [2, 2, 2], said
        assert all(words in text for text in said), said


def test_a_tokenizer_may_be_saved_again(trained: Path, tmp_path: Path) -> None:
    """What a call left in it (truncation, padding) and the layout of the file are no part of the sum."""
    model = tmp_path / "model"
    shutil.copytree(trained / "run/checkpoints/checkpoint-6/pretrained", model)
    content = json.loads((model / "tokenizer.json").read_text())
    truncation = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    (model / "tokenizer.json").write_text(json.dumps({**content, "truncation": truncation}, indent=3, sort_keys=True))
    check_tokenizer(model)
    assert len(bert()) == len(content["model"]["vocab"])
