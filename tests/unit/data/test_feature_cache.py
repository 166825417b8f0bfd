"""Features from the cache: found again in every process, and made anew after an edit of the code that makes them."""

import functools
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from datasets import Dataset
from tiny import experiment
from tokenizers_for_tests import t5
from transformers import AutoTokenizer

import model_hub_rqa
from model_hub_rqa.data.arrow_cache import cached_dataset, function_digest, map_examples
from model_hub_rqa.data.formats.fid import fusion_reader
from model_hub_rqa.data.loading import load_file
from model_hub_rqa.tasks.causal_lm.features import GenerationFeatureBuilder, build_generation_features
from model_hub_rqa.tasks.causal_lm.settings import GenerationKwargs
from model_hub_rqa.tasks.extractive.features import build_features
from model_hub_rqa.tasks.fid.features import FusionFeatureBuilder, build_fusion_features
from model_hub_rqa.tasks.fid.settings import FusionKwargs
from model_hub_rqa.train import main

MAIN = """
import functools
from own_words import count
from model_hub_rqa.tasks.extractive.features import FeatureBuilder
from model_hub_rqa.trials.qa import QATrial

def encode(row, factor=1):
    return {"made": count(row["question"]) * factor + %d}

def encode_later(row):
    from own_folder.own_lengths import length
    return {"made": length(row["question"])}

class Builder(FeatureBuilder):
    def __call__(self, table, indices):
        return super().__call__(table, [index + %d for index in indices])

class OwnTrial(QATrial):
    def build_datasets(self):
        self.made = {split: rows.map(encode) for split, rows in self.examples.items()}
        self.mapped = {split: self.map_examples(split, encode) for split in self.examples}
        return super().build_datasets()
"""
FILES = {  # the last lies in a folder without an __init__.py
    "own_features.py": MAIN % (0, 0),
    "own_words.py": "def count(text): return len(text.split())\n",
    "own_folder/own_lengths.py": "def length(text): return len(text)\n",
}
EDITS = {
    "own_features.py": MAIN % (100, 100),
    "own_words.py": "def count(text): return 100 + len(text.split())\n",
    "own_folder/own_lengths.py": "def length(text): return 100 + len(text)\n",
}
ROWS = [
    {"id": str(i), "title": "", "context": "a b c", "question": "b ?", "answers": {"text": ["b"], "answer_start": [2]}}
    for i in range(3)
]


class Counting:
    """A function of rows that counts its calls, in the class: its own values stay the same."""

    calls = 0

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        type(self).calls += 1
        return {"made": 1}


@pytest.fixture
def rows(tmp_path: Path) -> Dataset:
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    return load_file(str(tmp_path / "rows.jsonl"), cache_dir=str(tmp_path / "cache"))


@pytest.fixture
def import_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports the user's module as a new process would; the arguments are the files that were edited before."""
    for name, source in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def load(*edited: str) -> ModuleType:
        for name in edited:
            (tmp_path / name).write_text(EDITS[name])
        for name in ("own_features", "own_words", "own_folder", "own_folder.own_lengths"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return importlib.import_module("own_features")

    return load


@pytest.mark.parametrize(
    ("name", "edited", "before", "after"),
    [
        ("encode", "own_features.py", 2, 102),
        ("encode", "own_words.py", 2, 102),
        ("encode_later", "own_folder/own_lengths.py", 3, 103),
    ],
)
def test_an_edited_function_makes_new_features(
    rows: Dataset, import_own: Any, name: str, edited: str, before: int, after: int
) -> None:
    """The function's own module, one that it imports, and one that it imports when it is called."""
    assert map_examples(rows, getattr(import_own(), name))["made"][:] == [before] * 3
    assert map_examples(rows, getattr(import_own(edited), name))["made"][:] == [after] * 3


def test_an_edited_builder_and_another_argument_make_new_features(rows: Dataset, import_own: Any, minilm: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(minilm)

    def features(module: ModuleType, stride: int = 2) -> Dataset:
        return build_features(rows, module.Builder(tokenizer, max_seq_length=16, doc_stride=stride, labels=True))

    old = import_own()
    assert features(old)["example_index"][:].tolist() == [0, 1, 2]
    assert features(old, 3)._fingerprint != features(old)._fingerprint
    assert map_examples(rows, functools.partial(old.encode, factor=2))["made"][:] == [4] * 3
    assert map_examples(rows, functools.partial(old.encode, factor=3))["made"][:] == [6] * 3
    assert features(import_own("own_features.py"))["example_index"][:].tolist() == [100, 101, 102]


def test_a_trial_of_ones_own_that_was_edited_trains_on_new_features(
    tmp_path: Path, import_own: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it uses the trial's map_examples or Dataset.map; overwrite_cache: true reaches the former."""
    config = yaml.safe_load(experiment(tmp_path / "run").read_text())
    config["entrypoint"] = "own_features:OwnTrial"
    path = tmp_path / "own.yaml"
    path.write_text(json.dumps(config))
    seen = []

    cached: list[bool] = []
    whole = Dataset.map

    def spy_on_map(self: Dataset, *args: Any, **options: Any) -> Dataset:
        cached.append(options.get("load_from_cache_file", True))
        return whole(self, *args, **options)

    monkeypatch.setattr(Dataset, "map", spy_on_map)

    def run(module: ModuleType, *more: str) -> None:
        build = module.OwnTrial.build_collator

        def spy(trial: Any) -> Any:
            seen.append((trial.made["train"]["made"][0], trial.mapped["train"]["made"][0]))
            return build(trial)

        monkeypatch.setattr(module.OwnTrial, "build_collator", spy)
        options = ["--output-dir", str(tmp_path / f"out{len(seen)}"), "--config", "hyperparameters.max_steps=1"]
        assert main([str(path), *options, *more]) == 0

    run(import_own())
    run(import_own("own_words.py"))
    assert all(cached)
    (one, same), *_, (other, too) = seen
    assert one == same
    assert other == too == one + 100
    cached.clear()
    run(import_own(), "--config", "data.overwrite_cache=true")
    assert cached == [True, True, False, False, False, False]  # Dataset.map, map_examples, the features of QATrial


@pytest.mark.parametrize("overwrite", [False, True])
def test_overwrite_cache_makes_features_anew(rows: Dataset, overwrite: bool) -> None:
    Counting.calls = 0
    first = map_examples(rows, Counting())
    again = map_examples(rows, Counting(), overwrite_cache=overwrite)
    assert Counting.calls == (6 if overwrite else 3)
    assert first._fingerprint == again._fingerprint
    assert again.cache_files == first.cache_files != []


def test_overwrite_cache_reaches_every_builder_of_features(
    tmp_path: Path, minilm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    whole = Dataset.map

    def spy(self: Dataset, *args: Any, **options: Any) -> Dataset:
        asked.append(options["load_from_cache_file"])
        return whole(self, *args, **options)

    monkeypatch.setattr(Dataset, "map", spy)
    record = {"id": "1", "question": "Who?", "answers": ["a"], "ctxs": [{"id": "p", "title": "", "text": "a b"}]}
    (tmp_path / "fusion.jsonl").write_text(json.dumps(record))
    read = cached_dataset(str(tmp_path / "fusion.jsonl"), fusion_reader(), cache_dir=str(tmp_path / "cache"))
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    for overwrite in (True, False):
        build_fusion_features(read, FusionFeatureBuilder(t5(), FusionKwargs()), overwrite_cache=overwrite)
        builder = GenerationFeatureBuilder(tokenizer, GenerationKwargs())
        build_generation_features(read, builder, overwrite_cache=overwrite)
    assert asked == [False, False, True, True]


def test_a_tokenizer_that_was_called_makes_the_same_digest(minilm: str) -> None:
    """Calls change a tokenizer's truncation and padding: the second split, or rank, would not find its features."""
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    before = function_digest(functools.partial(encode, tokenizer=tokenizer))
    tokenizer(["a b c"], truncation=True, max_length=3, padding="max_length")
    tokenizer("a " * 1000)
    assert function_digest(functools.partial(encode, tokenizer=tokenizer)) == before
    other = AutoTokenizer.from_pretrained(minilm, additional_special_tokens=["<x>"])
    assert function_digest(functools.partial(encode, tokenizer=other)) != before


def encode(row: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    return {"made": len(tokenizer(row["question"])["input_ids"])}


def test_a_function_that_cannot_be_hashed_is_not_cached(rows: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    generator = (number for number in range(100))
    made = [map_examples(rows, lambda row: {"made": next(generator)})["made"][:] for _ in range(2)]
    assert made == [[0, 1, 2], [3, 4, 5]]
    assert "cannot be hashed" in caplog.text


CODE = """
import sys
from transformers import AutoTokenizer
from model_hub_rqa.tasks.extractive.features import FeatureBuilder, build_features
from model_hub_rqa.data.loading import load_file

rows = load_file(sys.argv[1], cache_dir=sys.argv[2])
builder = FeatureBuilder(AutoTokenizer.from_pretrained(sys.argv[3]), max_seq_length=16, doc_stride=2, labels=True)
features = build_features(rows, builder)
print(features._fingerprint, features["feature_index"][:].tolist())
"""


@pytest.mark.slow
def test_processes_share_features_until_the_package_is_edited(tmp_path: Path, minilm: str) -> None:
    """A copy of the package runs in three processes; before the third, its FeatureBuilder is edited."""
    package = tmp_path / "copy" / "model_hub_rqa"
    shutil.copytree(Path(model_hub_rqa.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))

    def run(seed: str) -> tuple[str, str]:
        arguments = [str(tmp_path / "rows.jsonl"), str(tmp_path / "cache"), minilm]
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(package.parent)}
        command = [sys.executable, "-B", "-c", CODE, *arguments]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
        fingerprint, _, made = done.stdout.strip().partition(" ")
        return fingerprint, made

    first, second = run("1"), run("2")
    assert first == second
    assert first[1] == "[0, 0, 0]"
    source = (package / "tasks/extractive/features.py").read_text()
    line = '        columns["feature_index"] = window\n'
    assert line in source
    (package / "tasks/extractive/features.py").write_text(source.replace(line, line.replace("window", "window + 7")))
    assert run("1")[1] == "[7, 7, 7]"
