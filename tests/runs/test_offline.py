"""The commands with the network unplugged, in a network namespace without an interface. HF_HUB_OFFLINE is not set: that
nothing is fetched must come from the commands and not from the variable."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
QUICKSTART = "experiment_configs/quickstart.yaml"
VALIDATION = "examples/quickstart/validation.json"

pytestmark = pytest.mark.slow


@cache
def unplugged() -> list[str]:
    """The words before a command that take its network away; as root, or by a user namespace; [] where neither can."""
    for words in (["unshare", "--net"], ["unshare", "--map-root-user", "--net"]):
        if shutil.which("unshare") and subprocess.run([*words, "true"], capture_output=True).returncode == 0:
            return words
    return []


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs ``python ARGUMENTS`` with no network, no HF_HUB_OFFLINE and empty caches."""
    if not unplugged():
        pytest.skip("unshare --net makes no network namespace here")
    caches = tmp_path_factory.mktemp("caches")
    hidden = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_CACHE", "HF_HUB_CACHE")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment |= {"HF_HOME": str(caches), "XDG_CACHE_HOME": str(caches), "PYTHONPATH": str(ROOT)}

    def run(*arguments: object, code: int = 0) -> "subprocess.CompletedProcess[str]":
        command = [*unplugged(), sys.executable, *map(str, arguments)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == code, done.stderr
        return done

    return run


@pytest.fixture(scope="module")
def rqa(offline: Run) -> Run:
    """As `offline`, of the ``rqa`` command."""
    return lambda *arguments, **settings: offline("-m", "model_hub_rqa.cli", *arguments, **settings)


@pytest.fixture(scope="module")
def trained(rqa: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder of the quickstart's first batch."""
    folder = tmp_path_factory.mktemp("quickstart") / "run"
    rqa("train", QUICKSTART, "--test", "--output-dir", folder)
    return folder


def answer_of(done: "subprocess.CompletedProcess[str]") -> Any:
    """The one JSON object on stdout."""
    return json.loads(done.stdout)


def test_the_network_is_unplugged(offline: Run) -> None:
    """The namespace has no interface but the loopback, and no name in it resolves."""
    script = "import socket; print([name for _, name in socket.if_nameindex()]); socket.getaddrinfo('pypi.org', 443)"
    done = offline("-c", script, code=1)
    assert done.stdout.strip() == "['lo']"
    assert "gaierror" in done.stderr


def test_train(trained: Path) -> None:
    """``rqa train CONFIG --test`` trains, validates and checkpoints."""
    assert (trained / "checkpoints/checkpoint-1/pretrained/model.safetensors").is_file()
    assert (trained / "predictions.json").is_file()


def test_validate(rqa: Run) -> None:
    """``rqa validate CONFIG`` reads the configuration and its data."""
    assert answer_of(rqa("validate", QUICKSTART))["valid"] is True


def test_predict_and_score(rqa: Run, trained: Path, tmp_path: Path) -> None:
    """``rqa predict`` answers a question and a file; ``rqa score`` scores the file."""
    one = rqa("predict", "--checkpoint", trained, "--question", "Who?", "--context", "Anna lives in Rome.")
    assert set(answer_of(one)) == {"answer", "score", "start", "end"}
    rqa("predict", "--checkpoint", trained, "--data", VALIDATION, "--output", tmp_path / "predictions.json")
    scores = answer_of(rqa("score", tmp_path / "predictions.json", "--data", VALIDATION, "--version-2"))
    assert scores["total"] == len(json.loads((tmp_path / "predictions.json").read_text(encoding="utf-8")))


def test_export(rqa: Run, offline: Run, trained: Path, tmp_path: Path) -> None:
    """``rqa export`` writes a folder that transformers loads by itself."""
    rqa("export", "--checkpoint", trained, "--output", tmp_path / "reader")
    script = (
        "import sys; from transformers import AutoModelForQuestionAnswering as Model, AutoTokenizer as Tokenizer\n"
        "Model.from_pretrained(sys.argv[1]); Tokenizer.from_pretrained(sys.argv[1])"
    )
    offline("-c", script, tmp_path / "reader")


@pytest.mark.parametrize("retriever", ["bm25", "dense"])
def test_index_and_retrieve(retriever: str, rqa: Run, tmp_path: Path, minilm: str) -> None:
    """``rqa index`` and ``rqa retrieve`` work, the dense retriever from a model's folder."""
    corpus, queries = tmp_path / "corpus.jsonl", tmp_path / "queries.jsonl"
    texts = {"a": "the cat sat on the mat", "b": "a dog ran over the road"}
    lines = [json.dumps({"_id": name, "title": "", "text": text}) for name, text in texts.items()]
    corpus.write_text("\n".join(lines) + "\n", encoding="utf-8")
    queries.write_text('{"_id": "q", "text": "dog on a road"}\n', encoding="utf-8")
    model = ["--embedding-model", minilm] if retriever == "dense" else []
    rqa("index", "--corpus", corpus, "--retriever", retriever, *model, "--output", tmp_path / "index")
    rqa("retrieve", "--index", tmp_path / "index", "--queries", queries, "--top-k", 1, "--output", tmp_path / "found")
    assert (tmp_path / "found/run.trec").read_text(encoding="utf-8").split()[:3] == ["q", "Q0", "b"]


def test_a_name_on_the_hub_is_reported(rqa: Run) -> None:
    """A configuration that names a model on the hub ends with code 2 and says that the hub cannot be asked."""
    done = rqa("validate", "experiment_configs/squad.yaml", code=2)
    assert "'bert-base-uncased' is not a folder, and the hub cannot be asked" in done.stderr
