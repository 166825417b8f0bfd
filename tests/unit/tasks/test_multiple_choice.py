"""The task multiple-choice, which is one file: its records, its batches, and the commands by its name alone."""

import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers_for_tests import bert
from transformers import BertConfig, BertForMultipleChoice

from model_hub_rqa import cli, train
from model_hub_rqa.errors import DataError
from model_hub_rqa.models.limits import Limits
from model_hub_rqa.readers import Reader
from model_hub_rqa.registry import TASKS
from model_hub_rqa.tasks.multiple_choice import MultipleChoice, MultipleChoiceKwargs

WORDS = ["price", "oil", "river", "name", "embargo", "barrel", "basin"]


def record(number: int) -> dict[str, Any]:
    """The context says which choice is right."""
    rng = random.Random(number)
    choices = rng.sample(WORDS, 4 - number % 2)
    label = rng.randrange(len(choices))
    context = f"the {choices[label]} is here"
    return {"id": f"r{number}", "context": context, "question": "it is the", "choices": choices, "label": label}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a tiny BERT, and a run in which it learnt them by heart."""
    path = tmp_path_factory.mktemp("multiple_choice")
    torch.manual_seed(0)
    tokenizer = bert()
    tokenizer.save_pretrained(path / "model")
    dropout = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0)
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    BertForMultipleChoice(BertConfig(vocab_size=len(tokenizer), **dropout, **shape)).save_pretrained(path / "model")
    for name, numbers in (("train", range(200, 216)), ("dev", range(200, 216))):
        (path / f"{name}.jsonl").write_text("\n".join(json.dumps(record(number)) for number in numbers))
    config = {
        "name": "multiple_choice",
        "entrypoint": "model_hub_rqa.trials.task_trial:TaskTrial",
        "data": {"train_file": str(path / "train.jsonl"), "validation_file": str(path / "dev.jsonl")},
        "hyperparameters": {
            "task": "multiple-choice",
            "pretrained_model_name_or_path": str(path / "model"),
            "global_batch_size": 8,
            "learning_rate": 5e-3,
            "num_train_epochs": 60,
            "max_seq_length": 32,
        },
        "searcher": {"name": "single", "metric": "accuracy", "smaller_is_better": False},
        "min_validation_period": {"epochs": 60},
    }
    (path / "config.yaml").write_text(json.dumps(config))
    assert train.main([str(path / "config.yaml"), "--output-dir", str(path / "run")]) == 0
    return path


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            {"context": "c", "choices": ["a", "b"], "label": 1},
            {"context": "c", "question": "", "choices": ["a", "b"], "label": 1},
        ),
        (
            {"sent1": "c", "sent2": "q", "ending0": "a", "ending1": "b", "label": "0"},
            {"context": "c", "question": "q", "choices": ["a", "b"], "label": 0},
        ),
    ],
    ids=["own", "SWAG's"],
)
def test_records(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert MultipleChoice().parse(given) == expected


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"choices": ["a"]}, r"line 1\): choices must be at least two texts, got \['a'\]"),
        ({"choices": ["a", 3]}, r"choices must be at least two texts, got \['a', 3\]"),
        ({"context": " ", "question": ""}, "context or question must hold text, got neither"),
        ({"label": 9}, "label must be a number from 0 to 3, got 9"),
        ({"label": None}, "label must be a number from 0 to 3, got None"),
    ],
)
def test_wrong_records(change: dict[str, Any], error: str, tmp_path: Path) -> None:
    """Each error names the file and the record; skip leaves the record out."""
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ({**record(0), **change}, record(2))))
    with pytest.raises(DataError, match=error):
        MultipleChoice().load(str(path))
    assert MultipleChoice().load(str(path), on_bad_record="skip")["id"] == ["r2"]


def test_a_batch_by_hand() -> None:
    """A record with fewer choices is filled up, and what fills it is never chosen."""
    task = MultipleChoice(MultipleChoiceKwargs(max_seq_length=16))
    task.setup(None, bert(), Limits())
    rows = [{"context": "the oil", "question": "", "choices": ["oil", "price", "river"], "label": 2}]
    rows.append({"context": "the oil", "question": "", "choices": ["oil", "price"], "label": 1})
    batch = task.collate([{**task.encode(row), "example_index": 7 + number} for number, row in enumerate(rows)])
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, 3, 6)
    assert batch["labels"].tolist() == [2, 1]
    assert batch["example_index"].tolist() == [7, 8]

    class Model(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor) -> Any:
            return type("Output", (), {"logits": torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.0, 5.0]])})

    assert task.scores(Model(), batch)[1].tolist() == [0.0, 1.0, float("-inf")]
    expected = -(torch.tensor([2.0, 1.0]) - torch.tensor([[0.0, 1, 2], [0, 1, -1e9]]).logsumexp(-1)).mean()
    assert task.loss(Model(), batch).item() == pytest.approx(-expected.neg().item())
    assert {key: choice for key, (choice, _) in task.predict(Model(), batch).items()} == {7: 2, 8: 1}
    assert task.metrics([(2, 0.5), (0, 0.5)], {"label": [2, 1]}) == {"accuracy": 50.0}


def test_it_learns(folder: Path) -> None:
    reports = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    validation = [report for report in reports if report["kind"] == "validation"][-1]
    assert validation["accuracy"] > 80
    answers = json.loads((folder / "run/predictions.json").read_text())
    right = [answers[row["id"]] == row["choices"][row["label"]] for row in map(record, range(200, 216))]
    assert 100 * sum(right) / 16 == pytest.approx(validation["accuracy"])


def test_a_task_of_a_plugin(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Registered in a module that the configuration names; with flags and without."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(TASKS, "_factories", {name: TASKS.find(name) for name in TASKS.names()})
    (tmp_path / "plugged_task.py").write_text(
        "from model_hub_rqa import TASKS\nfrom model_hub_rqa.tasks.multiple_choice import MultipleChoice\n"
        "@TASKS.register('plugged')\nclass Plugged(MultipleChoice):\n    name = 'plugged'\n"
    )
    config = json.loads((folder / "config.yaml").read_text())
    config["hyperparameters"]["task"], config["data"]["plugins"] = "plugged", ["plugged_task"]
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    assert cli.main(["validate", str(tmp_path / "config.yaml")]) == 0
    del TASKS._factories["plugged"]
    monkeypatch.delitem(sys.modules, "plugged_task")
    words = [str(tmp_path / "config.yaml"), "--max_steps", "0", "--output-dir", str(tmp_path / "run")]
    assert train.main(words) == 0
    assert json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])["kind"] == "validation"


METRICS = """
def longest(predictions, references, *, scale: float = 1.0):
    assert all(len(golds) == 1 for golds in references)
    return scale * max(len(text) for text in predictions)

longest.higher_is_better = False

def words(predictions, references):
    return "many"
"""


def test_added_metrics(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """data.metrics stand beside the task's own in a validation; the searcher knows their direction."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_metrics.py").write_text(METRICS)
    config = json.loads((folder / "config.yaml").read_text())
    config["hyperparameters"] |= {"max_steps": 0, "init_checkpoint": str(folder / "run")}
    config["searcher"] |= {"metric": "longest", "smaller_is_better": True}

    def run(metrics: list[Any], **searcher: Any) -> int:
        changed = {**config, "data": {**config["data"], "metrics": metrics}, "searcher": config["searcher"] | searcher}
        (tmp_path / "config.yaml").write_text(json.dumps(changed))
        return train.main([str(tmp_path / "config.yaml"), "--output-dir", str(tmp_path / "run")])

    longest = {"name": "own_metrics:longest", "args": {"scale": 2}}
    assert run([longest, "rouge1", {"name": "bleu", "args": {"effective_order": True}}]) == 0
    report = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])
    answers = json.loads((tmp_path / "run/predictions.json").read_text())
    assert report["longest"] == 2 * max(map(len, answers.values()))
    assert report["rouge1"] == pytest.approx(report["accuracy"])  # a choice is one word, so it is right or wrong
    assert "bleu" in report
    for metrics, searcher, error in (
        ([longest], {"smaller_is_better": False}, "searcher.smaller_is_better: must be true for longest, got false"),
        (["rouge1"], {}, "searcher.metric: must be one of the validation metrics (accuracy, rouge1), got 'longest'"),
        ([longest, "own_metrics.longest"], {}, "data.metrics[1]: longest is listed already"),
        (["rogue1"], {}, "data.metrics[0]: must be a registered metric (bleu, rouge1, rouge2) or package.module:objec"),
        ([{"name": "bleu", "args": {"order": 1}}], {}, "data.metrics[0].args.order: bleu has no such argument"),
        ([longest, "own_metrics:words"], {}, "data.metrics[1]: own_metrics:words must return a number, got 'many'"),
    ):
        assert run(metrics, **searcher) == 2
        assert error in capsys.readouterr().err
    config["entrypoint"] = "own_trials:ParityTrial"
    del config["hyperparameters"]["task"]
    assert run(["rouge1"]) == 2
    assert "data.metrics: needs a task, and ParityTrial has its own compute_metrics" in capsys.readouterr().err


def test_predict_and_evaluate(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The commands give what the validation gave, by what reader.json says of the task; labels are not needed."""
    unlabelled = [{key: value for key, value in record(number).items() if key != "label"} for number in range(200, 216)]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, unlabelled)))
    checkpoint = ["--checkpoint", str(folder / "run")]
    output = tmp_path / "answers.json"
    assert cli.main(["predict", *checkpoint, "--data", str(tmp_path / "questions.jsonl"), "--output", str(output)]) == 0
    assert set(json.loads(output.read_text())) == {f"r{number}" for number in range(200, 216)}
    capsys.readouterr()
    evaluated = tmp_path / "evaluated"
    words = ["evaluate", *checkpoint, "--data", str(folder / "dev.jsonl"), "--output-dir", str(evaluated)]
    assert cli.main(words) == 0
    scores = json.loads(capsys.readouterr().out)
    summary = json.loads((folder / "run/summary.json").read_text())
    assert scores == {"n_questions": 16, "accuracy": summary["best"]["accuracy"]}
    assert json.loads((evaluated / "score.json").read_text()) == scores


def test_the_reader_in_python(folder: Path) -> None:
    """Answers carry their probability among the choices."""
    reader = Reader.from_pretrained(folder / "run")
    examples = reader.task.load(str(folder / "dev.jsonl[:3]"))
    answers = reader.task.answers(reader.predict(examples), examples)
    assert [answer.text in row["choices"] for answer, row in zip(answers, examples, strict=True)] == [True] * 3
    assert all(answer.score is not None and 0.25 < answer.score <= 1 for answer in answers)


def test_a_task_that_is_not_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(folder / "config.yaml"), "--config", "hyperparameters.task=multiple-choise"]
    assert cli.main(["validate", *words]) == 2
    assert "hyperparameters.task: must be a registered task" in (error := capsys.readouterr().err)
    assert "did you mean multiple-choice?" in error
