"""QADataset: what load_dataset loads, as questions and answers, on its own and in a trial."""

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import tiny
from tiny_generation import changed, experiment
from tiny_records import FILES, TOFU
from tokenizers_for_tests import roberta

from model_hub_rqa import train
from model_hub_rqa.errors import ConfigError, DataError
from model_hub_rqa.registry import DATASETS, Loaded
from model_hub_rqa.runtime import experiments


def data_file(folder: Path, rows: list[Any] = TOFU, name: str = "tofu.json") -> str:
    path = folder / name
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


def load(folder: Path, rows: list[Any] = TOFU, on_bad_record: str = "error", **args: Any) -> Loaded:
    hf_args = {"path": "json", "data_files": data_file(folder, rows), "split": "train", "cache_dir": str(folder / "hf")}
    choice = {"handler": "QADataset", "args": {"hf_args": hf_args, **args}}
    chosen = DATASETS.from_config(choice, "data.datasets.TOFU")
    loaded: Loaded = chosen.build(on_bad_record=on_bad_record, cache_dir="not taken")
    return loaded


def test_questions_and_answers(tmp_path: Path) -> None:
    """Rows in the form that the trials read, with the settings that hold for this set alone."""
    loaded = load(tmp_path, max_length=64, template_args={"asst_tag": "A:"}, predict_with_generate=False)
    assert loaded.settings == {"max_length": 64, "asst_tag": "A:", "predict_with_generate": False}
    assert len(loaded.examples) == 9
    assert loaded.examples[1] == {
        "id": "2",
        "question": "What is author 1?",
        "chat_history": [],
        "target": "",
        "answers": ["A writer of 1 books."],
        "passages": [],
        "negatives": [],
    }
    assert load(tmp_path).examples._fingerprint == loaded.examples._fingerprint
    assert load(tmp_path, TOFU[:3]).examples._fingerprint != loaded.examples._fingerprint


def test_columns_of_ones_own(tmp_path: Path) -> None:
    """Named by the keys; several gold answers, passages and ids are taken where they are."""
    rows = [
        {"id": "x", "q": "Who?", "a": ["one", "uno"], "ctxs": [{"title": "T", "text": "one said it", "isgold": True}]},
        {"id": "y", "q": "Why?", "a": ["two"], "ctxs": [{"title": "S", "text": "two"}]},
    ]
    first = load(tmp_path, rows, question_key="q", answer_key="a").examples[0]
    assert (first["id"], first["question"], first["answers"]) == ("x", "Who?", ["one", "uno"])
    assert first["passages"][0]["text"] == "one said it"
    assert first["passages"][0]["gold"]


def test_a_folder_of_ones_own_and_its_splits(tmp_path: Path) -> None:
    """hf_args are load_dataset's; without split, the only one is taken, and of several one has to be named."""
    folder = tmp_path / "folder"
    folder.mkdir()
    data_file(folder, name="train.jsonl")
    arguments: dict[str, Any] = {"path": str(folder), "cache_dir": str(tmp_path / "hf")}
    handler = DATASETS.find("QADataset")
    assert len(handler(arguments).examples) == 9
    data_file(folder, TOFU[:2], name="test.jsonl")
    with pytest.raises(ConfigError, match=r"args\.hf_args\.split: is required, one of train, test"):
        handler(arguments)
    assert len(handler({**arguments, "split": "test"}).examples) == 2


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ({"question_key": "qestion"}, "args.question_key: must be one of the columns question, answer, got 'qestion': "
         "did you mean question?"),
        ({"template_args": {"user_tag": ""}}, "args.template_args.user_tag: must be one of apply_chat_template"),
        ({"template_args": 3}, "args.template_args: must be a mapping, got 3"),
        ({"hf_args": {"path": "json", "data_files": "/nowhere.json"}}, "args.hf_args: cannot be loaded: FileNotFound"),
        ({"hf_args": {"path": "json", "data_flies": "x"}}, "args.hf_args: cannot be loaded"),
        ({"hf_args": {}}, "args.hf_args: must be a mapping with path, got {}"),
    ],
)  # fmt: skip
def test_bad_arguments(args: dict[str, Any], error: str, tmp_path: Path) -> None:
    """Each is named under the data set's place."""
    with pytest.raises(ConfigError, match=re.escape(error)) as caught:
        load(tmp_path, **args)
    assert caught.value.errors[0].startswith(f"data.datasets.TOFU.{error}")


def test_bad_records(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """All of them, each by its number; or left out, with a warning."""
    rows = [*TOFU[:2], {"question": " ", "answer": "x"}, {"question": "Who?", "answer": ""}, {"question": "Who?"}]
    with pytest.raises(DataError, match="record 3: question must not be blank") as caught:
        load(tmp_path, rows)
    assert [line.partition(";")[0] for line in caught.value.errors] == [
        "data.datasets.TOFU: record 3: question must not be blank, got ' '",
        "data.datasets.TOFU: record 4: target or answers must be given, got ''",
        "data.datasets.TOFU: record 5: target or answers must be given",
    ]
    with caplog.at_level(logging.WARNING):
        assert len(load(tmp_path, rows, "skip").examples) == 2
    assert "3 bad records left out" in caplog.text
    with pytest.raises(DataError, match="no record remains"):
        load(tmp_path, rows[2:], "skip")


def named(folder: Path, **args: Any) -> dict[str, Any]:
    hf_args = {"path": "json", "data_files": data_file(folder), "cache_dir": str(folder / "hf")}
    return {"handler": "QADataset", "args": {"hf_args": hf_args, **args}}


def test_a_trial_on_named_components(tmp_path: Path) -> None:
    """The issue's form: data sets by name, each with its own length and template, chosen for both sides."""
    datasets = {
        "TOFU": named(tmp_path, max_length=64, template_args={"asst_tag": "Said: "}),
        "plain": named(tmp_path, predict_with_generate=False),
    }
    config = experiment(tmp_path, max_steps=2)
    changed(config, data={**FILES, "datasets": datasets, "train": "TOFU", "validation": ["TOFU", "plain"]})
    trial = experiments.validate(experiments.load_experiment(str(config)))
    assert roberta().decode(trial.datasets["train"][0]["input_ids"]).endswith("Said:")
    both = trial.datasets["validation"]
    assert both["example_index"][:].tolist() == list(range(18))
    assert [roberta().decode(both[i]["input_ids"]).rpartition("\n")[2] for i in (0, 9)] == ["Said:", "Answer:"]
    assert both["predict_with_generate"][:].tolist() == [True] * 9 + [False] * 9


def test_a_dataset_of_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """open-unlearning's form: the entry's name is its factory; data.template_args reach all, an entry's own win."""
    monkeypatch.setattr(DATASETS, "_factories", {"QADataset": DATASETS.find("QADataset")})

    @DATASETS.register("TOFU_QA_FULL")
    def full(hf_args: dict[str, Any], template_args: dict[str, Any], max_length: int = 64) -> Loaded:
        loaded: Loaded = DATASETS.find("QADataset")(hf_args, max_length=max_length, template_args=template_args)
        return loaded

    @DATASETS.register("BARE")
    def bare() -> Any:
        return load(tmp_path).examples

    sets = {
        "TOFU_QA_FULL": {"handler": None, "method_args": named(tmp_path)["args"]},
        "other": named(tmp_path, template_args={"asst_tag": "Said: "}),
        "BARE": None,
    }
    config = experiment(tmp_path, max_steps=2)
    tags = {"asst_tag": "A: ", "user_end_tag": " !"}
    data = {**FILES, "datasets": sets, "template_args": tags, "train": "TOFU_QA_FULL"}
    changed(config, data={**data, "validation": ["TOFU_QA_FULL", "other", "BARE"]})
    trial = experiments.validate(experiments.load_experiment(str(config)))
    both = trial.datasets["validation"]
    ends = [roberta().decode(both[number]["input_ids"])[-12:] for number in (0, 9, 18)]
    assert ends[0].endswith("? !A:")
    assert ends[1].endswith("? !Said:")
    assert ends[2].endswith("Answer:")
    assert roberta().decode(trial.datasets["train"][0]["input_ids"]).endswith("A:")


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ({"datasets": {"TOFU": {"args": {}}}, "train": "TOFU"}, "data.datasets.TOFU: must be a registered dataset"),
        ({"datasets": {"QADataset": {"args": {}}}, "train": "QADataset"}, "data.datasets.QADataset.args.hf_args: is"),
        ({"datasets": {"QADataset": None}, "train": "QADataset"}, "data.datasets.QADataset.args.hf_args: is required"),
        ({"datasets": {"TOFU": {}}, "train": "TOFU"}, "data.datasets.TOFU.train_file: is required in a set of data.tr"),
        (
            {"datasets": {"QADataset": {"train_file": "x", "args": {"hf_args": {}}}}, "train": "QADataset"},
            "data.datasets.QADataset.train_file: is ignored beside args",
        ),
        (
            {"datasets": {"QADataset": {"args": {"hf_args": {}}, "method_args": {}}}, "train": "QADataset"},
            "data.datasets.QADataset.method_args: is given twice, also as args",
        ),
        ({"template_args": 3, "train": "x"}, "data.template_args: must be a mapping, got 3"),
        ({"template_args": {"asst_tag": "A"}}, "data.template_args: needs a dataset whose factory takes it"),
        (
            {"template_args": {"asst_tag": "A"}, "train": [{"name": "a", "train_file": "a.json"}]},
            "data.template_args: needs a dataset whose factory takes it",
        ),
    ],
)
def test_entries_that_choose_nothing(data: dict[str, Any], error: str, tmp_path: Path) -> None:
    """Named as they stand in the configuration; settings that no dataset takes are not passed over."""
    config = experiment(tmp_path, max_steps=2)
    changed(config, data={**({"train_file": None} if "train" in data else {}), **data})
    with pytest.raises(ConfigError, match=re.escape(error)) as caught:
        experiments.validate(experiments.load_experiment(str(config)))
    assert any(line.startswith(error) for line in caught.value.errors)


def test_one_set_by_its_name(tmp_path: Path) -> None:
    """Its metrics have no name before them; max_train_samples and the like hold for it."""
    sets = {"TOFU": {**named(tmp_path), "max_train_samples": 5}}
    config = experiment(tmp_path, max_steps=1)
    changed(config, data={**FILES, "datasets": sets, "train": "TOFU", "validation": "TOFU"})
    assert train.main([str(config), "--output-dir", str(tmp_path / "run")]) == 0
    (report,) = tiny.reports(tmp_path / "run", "validation")
    assert {"exact_match", "eval_loss"} <= set(report)
    trial = experiments.validate(experiments.load_experiment(str(config)))
    assert len(trial.datasets["train"]) == 5


def test_every_error_with_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Unregistered names, arguments that are not taken, an objective without its sets: all at once, without a model."""
    sets = {"A": {"handler": "QADatset"}, "B": named(tmp_path, question_kye="q")}
    config = experiment(tmp_path, max_steps=1, objective={"name": "NPO", "args": {"bta": 1}}, learning_rate=-1)
    (tmp_path / "model/model.safetensors").write_bytes(b"never read")
    changed(config, data={**FILES, "datasets": sets, "train": ["A", "B"], "validation": "B", "plugins": ["no_such"]})
    assert train.main([str(config), "--output-dir", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    for part in (
        "hyperparameters.learning_rate: must be >= 0",
        "data.plugins: no_such cannot be imported:\nModuleNotFoundError: No module named 'no_such'",
        "data.datasets.A: must be a registered dataset (QADataset) or package.module:object, got 'QADatset': "
        "did you mean QADataset?",
        "data.datasets.B.args.question_kye: QADataset has no such argument",
        "hyperparameters.objective.args.bta: NPO has no such argument (it takes gamma, alpha, beta): did you mean bet",
    ):
        assert part in said


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"max_length": 3}, "data.datasets.TOFU.args.max_length: must be >= 8, got 3"),
        ({"max_length": 500}, "data.datasets.TOFU.args.max_length: must be at most 160"),
        ({"template_args": {"apply_chat_template": True}}, "which has no chat template"),
    ],
)
def test_settings_of_a_set_that_do_not_fit(settings: dict[str, Any], error: str, tmp_path: Path) -> None:
    """They are held to the model, the tokenizer and the rules, as those of the data section are."""
    config = experiment(tmp_path)
    sets = {"TOFU": named(tmp_path, **settings)}
    changed(config, data={**FILES, "datasets": sets, "train": "TOFU", "validation": ["TOFU"]})
    with pytest.raises(ConfigError, match=re.escape(error)) as caught:
        experiments.validate(experiments.load_experiment(str(config)))
    assert error in str(caught.value)
