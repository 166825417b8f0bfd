"""The examples: short, without a copy of the package's methods, and each trains a few steps."""

import ast
import io
import json
import math
import os
import random
import subprocess
import sys
import tokenize
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from model_hub_rqa import train
from model_hub_rqa.runtime import experiments

ROOT = Path(__file__).parents[2]
TRIALS = sorted((ROOT / "examples").glob("*/trial.py"))
MOST_LINES = 60


def lines_of_code(path: Path) -> int:
    """Lines that hold anything but blanks, comments and docstrings."""
    source = path.read_text(encoding="utf-8")
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            docstrings |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    blank = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in blank:
            code |= set(range(token.start[0], token.end[0] + 1))
    return len(code - docstrings)


def bodies(source: str) -> dict[str, str]:
    """The statements of every function but its docstring, as one text."""
    found = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            statements = node.body[1:] if ast.get_docstring(node) is not None else node.body
            found[node.name] = "\n".join(map(ast.unparse, statements))
    return found


def test_lines_are_counted(tmp_path: Path) -> None:
    """Computed by hand: neither docstrings, comments nor blank lines count, and a statement counts all its lines."""
    path = tmp_path / "trial.py"
    lines = ['"""Doc.', "", 'More."""', "", "import x  # why", "", "# a comment", "def f():", '    """Doc."""']
    path.write_text("\n".join([*lines, "    return [", "        1,", "    ]", ""]))
    assert lines_of_code(path) == 5


@pytest.mark.parametrize("path", TRIALS, ids=lambda path: path.parent.name)
def test_a_trial_file_is_short_and_copies_nothing(path: Path) -> None:
    """At most 60 lines of code, and no method that is the package's own word for word."""
    assert lines_of_code(path) <= MOST_LINES
    ours = [bodies(file.read_text(encoding="utf-8")) for file in (ROOT / "model_hub_rqa").rglob("*.py")]
    package = {body for functions in ours for body in functions.values() if body.count("\n") or len(body) > 80}
    copied = [name for name, body in bodies(path.read_text(encoding="utf-8")).items() if body in package]
    assert not copied


TRAINED = [path for path in sorted((ROOT / "examples").glob("*/*.yaml")) if path.parent.name != "encode_corpus"]


@pytest.mark.parametrize("path", TRAINED, ids=lambda path: path.stem)
def test_an_example_says_how_it_is_run(path: Path) -> None:
    """Its trial can be imported, its name is the file's, and its README gives the commands."""
    experiment = experiments.load_experiment(str(path))
    assert experiments.import_trial(experiment.trial_class)
    assert experiment.name == path.stem
    readme = (path.parent / "README.rst").read_text(encoding="utf-8")
    assert f"rqa train examples/{path.parent.name}/{path.name}" in readme


def run(config: str, output: Path, options: dict[str, Any]) -> Path:
    words = [word for name, value in options.items() for word in ("--config", f"{name}={value}")]
    assert train.main([config, "--output-dir", str(output), *words]) == 0
    return output


# ---- sentence ordering ----

ORDERING = "examples/sentence_ordering/sentence_ordering.yaml"


FIRST = [word.capitalize() for word in tiny.WORDS[:6]]


def ordering_data(folder: Path) -> Path:
    """Data that the script makes of a file whose paragraphs say at which place each sentence stands."""
    rng = random.Random(0)
    paragraphs = [
        {"context": " ".join(f"{word} {' '.join(rng.choices(tiny.WORDS[8:], k=4))}." for word in FIRST), "qas": []}
        for _ in range(30)
    ]
    articles = [{"title": f"t{i}", "paragraphs": paragraphs[i * 5 : i * 5 + 5]} for i in range(6)]
    squad = folder / "squad.json"
    squad.write_text(json.dumps({"version": "1.1", "data": articles}))
    script = [sys.executable, "examples/sentence_ordering/build_data.py", "--data", str(squad)]
    sizes = ["--train", "15", "--validation", "8", "--sentences", "4", "--output-dir", str(folder / "data")]
    subprocess.run([*script, *sizes], cwd=ROOT, check=True, capture_output=True)
    return folder / "data"


def ordering_options(folder: Path) -> dict[str, Any]:
    data, model = ordering_data(folder), tiny.model_folder(folder / "model")
    return {
        "data.train_file": data / "train",
        "data.validation_file": data / "validation",
        "data.cache_dir": folder / "cache",
        "hyperparameters.pretrained_model_name_or_path": model,
        "hyperparameters.global_batch_size": 5,
        "hyperparameters.learning_rate": 0.01,
        "hyperparameters.warmup_ratio": 0,
    }


def test_sentence_ordering_learns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The script's data hold whole sentences and their places; a tiny model learns which word comes first."""
    monkeypatch.chdir(ROOT)
    options = ordering_options(tmp_path)
    from datasets import load_from_disk

    made = load_from_disk(str(tmp_path / "data"))
    assert {name: len(rows) for name, rows in made.items()} == {"train": 15, "validation": 8}
    titles = {name: {row["id"].rpartition("-")[0] for row in rows} for name, rows in made.items()}
    assert not titles["train"] & titles["validation"]
    for row in made["train"]:
        ordered = [text for _, text in sorted(zip(row["positions"], row["sentences"], strict=True))]
        assert [text.split()[0] for text in ordered] == FIRST[:4]
    epochs = {"hyperparameters.num_train_epochs": 12, "searcher.max_length.epochs": 12}
    output = run(ORDERING, tmp_path / "run", {**options, **epochs})
    assert "is not a known name" not in caplog.text
    first, last = tiny.reports(output, "validation")[0], tiny.reports(output, "validation")[-1]
    assert last["kendall_tau"] > max(0.9, first["kendall_tau"])
    assert last["accuracy"] > 0.8
    assert math.isfinite(last["logits_mean"])
    assert last["logits_std"] > 0


def ordering_trial() -> Any:
    from examples.sentence_ordering import trial

    return trial


def test_a_batch_of_sentences() -> None:
    """Each marker stands behind its sentence's [CLS]; what is missing is filled, and neither attended to nor scored."""
    from tokenizers_for_tests import bert

    module, tokenizer = ordering_trial(), bert()
    rows = [
        {"sentences": ["the oil crisis", "river"], "positions": [1, 0]},
        {"sentences": ["began", "price basin the oil crisis", "October"], "positions": [2, 0, 1]},
    ]
    features = [
        {**row, **module.encode_row(row, tokenizer=tokenizer, max_length=5), "example_index": number}
        for number, row in enumerate(rows)
    ]
    batch = module.collate(features, padding=tokenizer.pad_token_id)
    before = batch["input_ids"].gather(1, batch["markers"] - (batch["positions"] >= 0).long())
    assert (before[batch["positions"] >= 0] == tokenizer.cls_token_id).all()
    assert batch["positions"].tolist() == [[1, 0, -1], [2, 0, 1]]
    assert batch["attention_mask"].sum(1).tolist() == [len(feature["input_ids"]) for feature in features]
    assert batch["markers"].tolist() == [[1, 6, 0], [1, 4, 9]]  # [CLS] the oil crisis [SEP]; a long one is cut to 5


@given(
    st.lists(st.lists(st.floats(-5, 5), min_size=1, max_size=5), min_size=1, max_size=4),
    st.randoms(use_true_random=False),
)
def test_list_mle(rows: list[list[float]], rng: random.Random) -> None:
    """Equals the formula, written out: at each place, log of the sum of exp of what is left, minus the next score."""
    width = max(map(len, rows))
    positions = [rng.sample(range(len(row)), len(row)) for row in rows]
    expected = []
    for row, places in zip(rows, positions, strict=True):
        ranked = [score for _, score in sorted(zip(places, row, strict=True))]
        terms = [math.log(sum(map(math.exp, ranked[i:]))) - ranked[i] for i in range(len(ranked))]
        expected.append(sum(terms) / len(row))
    scores = torch.tensor([[*row, *[3.0] * (width - len(row))] for row in rows], requires_grad=True)
    padded = torch.tensor([[*row, *[-1] * (width - len(row))] for row in positions])
    loss = ordering_trial().list_mle(scores, padded)
    assert loss.item() == pytest.approx(sum(expected) / len(rows), abs=1e-4)
    loss.backward()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()
    assert (scores.grad[padded < 0] == 0).all()


# ---- several data sets ----


def multi_options(folder: Path) -> dict[str, Any]:
    files = {
        f"data.datasets.{name}.{side}_file": tiny.squad_file(
            folder / f"{name}_{side}.json", 12, unanswerable=4, seed=len(name) + len(side)
        )
        for name in ("squad", "quickstart")
        for side in ("train", "validation")
    }
    return {
        **files,
        "data.cache_dir": folder / "cache",
        "data.max_seq_length": 64,
        "data.doc_stride": 16,
        "hyperparameters.pretrained_model_name_or_path": tiny.model_folder(folder / "model"),
        "hyperparameters.global_batch_size": 4,
        "hyperparameters.max_steps": 2,
        "searcher.max_length": 2,
    }


def test_two_sets_in_one_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """squad/f1 and quickstart/f1 are printed, in this order, and the summary says how large the sets are."""
    monkeypatch.chdir(ROOT)
    output = run("examples/multi_dataset/multi_dataset.yaml", tmp_path / "run", multi_options(tmp_path))
    assert "is not a known name" not in caplog.text
    said = capsys.readouterr().err
    assert 0 < said.index("squad/f1") < said.index("quickstart/f1")
    report = tiny.reports(output, "validation")[-1]
    assert report["f1"] == pytest.approx((report["squad/f1"] + report["quickstart/f1"]) / 2)
    summary = json.loads((output / "summary.json").read_text())
    assert summary["sets"]["train"] == {"squad": 12, "quickstart": 12}
    assert {"predictions_squad.json", "predictions_quickstart.json", "losses.jsonl"} <= set(summary["files"])


# ---- Determined's local test mode ----


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "options"),
    [(ORDERING, ordering_options), ("examples/multi_dataset/multi_dataset.yaml", multi_options)],
    ids=["sentence_ordering", "multi_dataset"],
)
def test_determineds_local_test_mode_runs_an_example(config: str, options: Any, tmp_path: Path) -> None:
    """det experiment create CONFIG . --local --test passes."""
    det = Path(sys.executable).with_name("det")
    words = [word for name, value in options(tmp_path).items() for word in ("--config", f"{name}={value}")]
    command = [str(det), "experiment", "create", config, ".", "--local", "--test", *words]
    environment = {**os.environ, "XDG_DATA_HOME": str(tmp_path / "share")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "The test experiment passed" in done.stdout + done.stderr


# ---- multiple choice ----

CHOICE = "examples/multiple_choice"


def test_a_task_is_one_short_file() -> None:
    """Settings, features, metrics and all."""
    assert lines_of_code(ROOT / "model_hub_rqa/tasks/multiple_choice.py") <= 80


def test_multiple_choice_on_questions_of_squad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The data builder's records are the task's, its articles are apart, and the configuration trains on them."""
    monkeypatch.chdir(ROOT)
    articles = []
    for number in range(6):
        words = [f"{word}{number}" for word in ("oil", "price", "river", "name", "basin")]
        context = " ".join(words)
        qas = [
            {
                "id": word,
                "question": f"what is {word}?",
                "answers": [{"text": word, "answer_start": context.index(word)}],
            }
            for word in words
        ]
        articles.append({"title": f"t{number}", "paragraphs": [{"context": context, "qas": qas}]})
    (tmp_path / "squad.json").write_text(json.dumps({"data": articles}))
    words = [
        "--data",
        str(tmp_path / "squad.json"),
        "--output-dir",
        str(tmp_path),
        "--train",
        "20",
        "--validation",
        "9",
    ]
    subprocess.run([sys.executable, f"{CHOICE}/build_data.py", *words], check=True, capture_output=True)
    rows = {
        side: [json.loads(line) for line in (tmp_path / f"{side}.jsonl").read_text().splitlines()]
        for side in ("train", "validation")
    }
    assert {side: len(of) for side, of in rows.items()} == {"train": 20, "validation": 9}
    assert not {row["context"] for row in rows["train"]} & {row["context"] for row in rows["validation"]}
    assert all(row["choices"][row["label"]] == row["id"] and len(set(row["choices"])) == 4 for row in rows["train"])
    options = {
        "data.train_file": tmp_path / "train.jsonl",
        "data.validation_file": tmp_path / "validation.jsonl",
        "data.max_seq_length": 32,
        "searcher.max_length": "null",
        "hyperparameters.num_train_epochs": "null",
        "hyperparameters.max_steps": 2,
        "hyperparameters.pretrained_model_name_or_path": tiny.model_folder(tmp_path / "model"),
    }
    output = run(f"{CHOICE}/multiple_choice.yaml", tmp_path / "run", options)
    assert set(json.loads((output / "predictions.json").read_text())) == {row["id"] for row in rows["validation"]}
