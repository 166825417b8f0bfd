"""An index by several processes: what each encodes, how the shards are joined, and what is refused."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_encoders import TEXTS, encoder_folder

from model_hub_rqa import cli
from model_hub_rqa.errors import CheckpointError, ConfigError
from model_hub_rqa.records import Passage
from model_hub_rqa.retrieval import encoder, shards
from model_hub_rqa.retrieval.dense import DenseSettings
from model_hub_rqa.retrieval.encoder import Encoder
from model_hub_rqa.retrieval.index_folder import build_index, open_index
from model_hub_rqa.retrieval.shards import IndexShard, build_shard, parse_shard


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return encoder_folder(tmp_path_factory.mktemp("encoder"))


def corpus_of(folder: Path, texts: list[str]) -> Path:
    path = folder / "corpus.jsonl"
    path.write_text("".join(json.dumps({"_id": f"d{i}", "text": text}) + "\n" for i, text in enumerate(texts)))
    return path


@pytest.fixture
def world(tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, DenseSettings]:
    monkeypatch.setattr(shards, "BLOCK", 3)
    return corpus_of(tmp_path, TEXTS), DenseSettings(embedding_model=model)


@given(st.integers(0, 50), st.integers(1, 5), st.integers(1, 7))
def test_shards_are_a_partition(n_passages: int, count: int, block: int) -> None:
    """Each passage is in one shard, and joining puts them back into the order of the corpus."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "BLOCK", block)
        corpus = [Passage(str(i), "x", "") for i in range(n_passages)]
        parts: list[list[Passage]] = []
        for number in range(1, count + 1):
            try:
                parts.append(list(IndexShard(number, count).of(corpus)))
            except ConfigError:
                parts.append([])
                assert number > -(-n_passages // block)
        joined = [parts[shard][row].id for shard, row in shards._rows([len(part) for part in parts])]
    assert joined == [one.id for one in corpus]


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)], ids=str)
def test_the_last_shard_joins_them(order: tuple[int, ...], world: tuple[Path, DenseSettings], tmp_path: Path) -> None:
    """The index finds what one that was built in one go finds, and says the same of itself."""
    corpus, settings = world
    whole = build_index(corpus, tmp_path / "whole", settings)
    for number in order[:-1]:
        folder, manifest = build_shard(corpus, tmp_path / "index", settings, IndexShard(number, 3))
        assert (folder, manifest.shard) == (tmp_path / f"index.shards/{number}-of-3", f"{number}/3")
        assert not (tmp_path / "index").exists()
    folder, manifest = build_shard(corpus, tmp_path / "index", settings, IndexShard(order[-1], 3))
    assert folder == tmp_path / "index"
    assert not list(tmp_path.glob("index.*"))
    names = ("n_passages", "n_documents", "corpus_sha256", "settings", "model", "shard")
    assert {name: getattr(manifest, name) for name in names} == {name: getattr(whole, name) for name in names}
    assert (tmp_path / "index/passages.jsonl").read_bytes() == (tmp_path / "whole/passages.jsonl").read_bytes()
    vectors, expected = (np.load(tmp_path / name / "embeddings.npy") for name in ("index", "whole"))
    np.testing.assert_allclose(vectors, expected, rtol=1e-4, atol=1e-5)
    found, wanted = (open_index(tmp_path / name).search(TEXTS[:5], 7) for name in ("index", "whole"))
    assert [[hit.passage.id for hit in hits] for hits in found] == [[hit.passage.id for hit in hits] for hits in wanted]


def test_an_index_of_faiss_is_made_of_the_whole(world: tuple[Path, DenseSettings], tmp_path: Path, model: str) -> None:
    """Shards hold vectors alone, in float16 here; the joined index has faiss' file and its recall."""
    corpus, _ = world
    settings = DenseSettings(embedding_model=model, faiss_index="HNSW8", embeddings_dtype="float16")
    build_shard(corpus, tmp_path / "index", settings, IndexShard(1, 2))
    assert not (tmp_path / "index.shards/1-of-2/index.faiss").exists()
    _, manifest = build_shard(corpus, tmp_path / "index", settings, IndexShard(2, 2))
    assert manifest.settings["faiss_index"] == "HNSW8"
    assert manifest.measured["faiss_recall@10"] > 0.8
    assert np.load(tmp_path / "index/embeddings.npy").dtype == np.float16
    assert len(open_index(tmp_path / "index").search(TEXTS[:1], 3)[0]) == 3


def test_a_shard_that_is_whole_is_not_encoded_again(
    world: tuple[Path, DenseSettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command again, say after a restart, only looks whether it is the last."""
    corpus, settings = world
    build_shard(corpus, tmp_path / "index", settings, IndexShard(1, 2))
    monkeypatch.setattr(shards, "build_index", lambda *args, **kwargs: pytest.fail("it was encoded again"))
    folder, _ = build_shard(corpus, tmp_path / "index", settings, IndexShard(1, 2))
    assert folder == tmp_path / "index.shards/1-of-2"


def test_shards_that_do_not_belong_together(world: tuple[Path, DenseSettings], tmp_path: Path, model: str) -> None:
    """Of another corpus, of another model, or damaged: named, and nothing is joined."""
    corpus, settings = world
    build_shard(corpus, tmp_path / "index", settings, IndexShard(1, 2))
    corpus_of(tmp_path, TEXTS[::-1])
    with pytest.raises(CheckpointError, match=r"2-of-2: must have the corpus_sha256 of 1-of-2, got another"):
        build_shard(corpus, tmp_path / "index", settings, IndexShard(2, 2))
    other = DenseSettings(embedding_model=encoder_folder(tmp_path / "other", seed=1))
    corpus_of(tmp_path, TEXTS)
    build_shard(corpus, tmp_path / "two", settings, IndexShard(1, 2))
    with pytest.raises(CheckpointError, match=r"2-of-2: must have the model of 1-of-2, got another"):
        build_shard(corpus, tmp_path / "two", other, IndexShard(2, 2))
    build_shard(corpus, tmp_path / "three", settings, IndexShard(1, 2))
    with (tmp_path / "three.shards/1-of-2/embeddings.npy").open("r+b") as file:
        file.seek(200)
        file.write(b"\xff")
    with pytest.raises(CheckpointError, match=r"1-of-2/embeddings.npy: damaged"):
        build_shard(corpus, tmp_path / "three", settings, IndexShard(2, 2))
    assert not any((tmp_path / name).exists() for name in ("index", "two", "three"))


def test_a_shard_is_no_index(world: tuple[Path, DenseSettings], tmp_path: Path) -> None:
    """Searching one would miss most of the corpus."""
    corpus, settings = world
    folder, _ = build_shard(corpus, tmp_path / "index", settings, IndexShard(1, 2))
    with pytest.raises(CheckpointError, match=r"1-of-2: must be a whole index, got shard 1/2"):
        open_index(folder)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--shard", "3/2"], "--shard: must be I/N with I from 1 to N, such as 2/4, got '3/2'"),
        (["--shard", "0/2"], "--shard: must be I/N"),
        (["--shard", "half"], "--shard: must be I/N"),
        (["--shard", "20/20"], "--shard: must be of at most 14, as 40 passages are, got 20/20"),
    ],
)
def test_impossible_shards(
    words: list[str],
    error: str,
    world: tuple[Path, DenseSettings],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit 2, by the option's name, and nothing is left."""
    corpus, settings = world
    options = ["--retriever", "dense", "--embedding-model", settings.embedding_model]
    output = ["--output", str(tmp_path / "index")]
    assert cli.main(["index", "--corpus", str(corpus), *options, *output, *words]) == 2
    assert error in capsys.readouterr().err
    assert not (tmp_path / "index").exists()


def test_only_dense_indexes_have_shards(
    world: tuple[Path, DenseSettings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """BM25 takes minutes, and counts words of the whole corpus."""
    words = ["index", "--corpus", str(world[0]), "--retriever", "bm25", "--output", str(tmp_path / "index")]
    assert cli.main([*words, "--shard", "1/2"]) == 2
    assert "--shard: is for dense indexes, got a bm25 index" in capsys.readouterr().err


def test_a_rank_has_its_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun's variables say it, unless the option does."""
    assert parse_shard(None) is None
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "2")
    assert parse_shard(None) == IndexShard(3, 4)
    assert parse_shard("1/2") == IndexShard(1, 2)


def join_interrupted(corpus: Path, output: Path, settings: DenseSettings) -> None:
    """Leaves both of two shards whole, and no index."""

    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(shards, "join_shards", interrupted)
        for number in (1, 2):
            build_shard(corpus, output, settings, IndexShard(number, 2))
    assert not output.exists()


def test_a_rank_that_starts_after_the_join(world: tuple[Path, DenseSettings], tmp_path: Path) -> None:
    """After a restart, one rank may join the shards before another one has looked: both succeed."""
    corpus, settings = world
    join_interrupted(corpus, tmp_path / "index", settings)
    _, joined = build_shard(corpus, tmp_path / "index", settings, IndexShard(1, 2))
    assert build_shard(corpus, tmp_path / "index", settings, IndexShard(2, 2)) == (tmp_path / "index", joined)
    with pytest.raises(CheckpointError, match=r"index: was built with embeddings_dtype 'float32', got 'float16'"):
        build_shard(corpus, tmp_path / "index", replace(settings, embeddings_dtype="float16"), IndexShard(2, 2))
    with pytest.raises(CheckpointError, match=r"index: was built with passage_words None, got 3"):
        build_shard(corpus, tmp_path / "index", settings, IndexShard(2, 2), passage_words=3)


def test_an_empty_folder_is_no_index(world: tuple[Path, DenseSettings], tmp_path: Path) -> None:
    """An empty folder is no index: the arguments are checked as always."""
    corpus, settings = world
    (tmp_path / "index").mkdir()
    with pytest.raises(ConfigError, match="embeddings_dtype: must be one of"):
        build_shard(corpus, tmp_path / "index", replace(settings, embeddings_dtype="x"), IndexShard(1, 2))


def test_shards_of_other_settings_are_not_used(world: tuple[Path, DenseSettings], tmp_path: Path) -> None:
    """A shard that is whole is that of the model and the settings that are asked for now, or an error."""
    corpus, settings = world
    join_interrupted(corpus, tmp_path / "index", settings)
    other = encoder_folder(tmp_path / "other", seed=1)
    with pytest.raises(CheckpointError, match=r"1-of-2: was built with embedding_model .*, got .*other.*; remove it"):
        build_shard(corpus, tmp_path / "index", replace(settings, embedding_model=other), IndexShard(1, 2))
    build_shard(corpus, tmp_path / "half", replace(settings, embeddings_dtype="float16"), IndexShard(1, 2))
    with pytest.raises(CheckpointError, match=r"2-of-2: must have the settings of 1-of-2, got another"):
        build_shard(corpus, tmp_path / "half", settings, IndexShard(2, 2))
    assert not any((tmp_path / name).exists() for name in ("index", "half"))


def test_missing_shards_are_named(world: tuple[Path, DenseSettings], tmp_path: Path) -> None:
    """By a search in an index that waits for them."""
    corpus, settings = world
    build_shard(corpus, tmp_path / "index", settings, IndexShard(2, 3))
    with pytest.raises(CheckpointError, match=r"index.shards lacks 1-of-3, 3-of-3: run rqa index for them"):
        open_index(tmp_path / "index")
    join_interrupted(corpus, tmp_path / "two", settings)
    with pytest.raises(CheckpointError, match=r"run rqa index with any --shard again to join two.shards"):
        open_index(tmp_path / "two")


def test_one_rank_joins_at_a_time(tmp_path: Path) -> None:
    """Also where the second waits for a file that the first one removes, and the third comes after that."""
    target = tmp_path / "index.shards"
    lock = tmp_path / "index.shards.lock"
    code = (
        "import sys; from pathlib import Path; from model_hub_rqa.retrieval.shards import _one_at_a_time\n"
        f"with _one_at_a_time(Path({str(target)!r})):\n    print('in', flush=True); sys.stdin.readline()"
    )
    with shards._one_at_a_time(target):
        waiting = subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True)
        has_it_open = Path(f"/proc/{waiting.pid}/fd")
        while not any(os.path.realpath(one) == str(lock) for one in has_it_open.iterdir()):
            assert waiting.poll() is None
            time.sleep(0.01)
    assert waiting.stdout is not None
    assert waiting.stdout.readline() == "in\n"
    with lock.open("w") as file, pytest.raises(BlockingIOError, match="unavailable"):
        shards.fcntl.flock(file, shards.fcntl.LOCK_EX | shards.fcntl.LOCK_NB)
    waiting.communicate("\n")
    assert waiting.returncode == 0
    assert not lock.exists()


def test_a_rank_encodes_on_its_own_gpu(
    world: tuple[Path, DenseSettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By itself, a process takes all GPUs; of torchrun's ranks, none takes another one's."""
    corpus, settings = world
    used: list[list[str]] = []

    @contextlib.contextmanager
    def on(self: Encoder, devices: Sequence[str]) -> Any:
        used.append(list(devices))
        yield

    monkeypatch.setattr(Encoder, "on", on)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    build_shard(corpus, tmp_path / "alone", settings, IndexShard(1, 2))
    assert used == [["cuda:0", "cuda:1", "cuda:2", "cuda:3"]]
    for name, value in {"RANK": 6, "WORLD_SIZE": 8, "LOCAL_RANK": 2, "LOCAL_WORLD_SIZE": 4}.items():
        monkeypatch.setenv(name, str(value))
    assert encoder.all_gpus() == ["cuda:2"]
    build_shard(corpus, tmp_path / "index", settings, IndexShard(1, 2))
    assert len(used) == 1  # the model is on cuda:2 already: sentence-transformers reads LOCAL_RANK


@pytest.mark.slow
def test_a_killed_shard_goes_on(tmp_path: Path, model: str) -> None:
    """Not from the beginning; and the joined index is that of one go."""
    corpus = corpus_of(tmp_path, [f"{TEXTS[i % 40]} {i}" for i in range(20_000)])
    code = "import sys; from model_hub_rqa.retrieval import dense; dense._SECONDS_BETWEEN_SAVES = 0.1\n"
    code += "from model_hub_rqa import cli; sys.exit(cli.main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "index", "--corpus", str(corpus), "--retriever", "dense"]
    command += ["--embedding-model", model, "--output", str(tmp_path / "index"), "--shard", "2/2"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    progress = tmp_path / "index.shards/2-of-2.partial/progress.json"
    while not progress.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = json.loads(progress.read_text())["done"]
    begun: list[int] = []

    def report(stage: str, number: int, of: int) -> None:
        begun.extend([number] if stage == "encoding" else [])

    settings = DenseSettings(embedding_model=model)
    build_shard(corpus, tmp_path / "index", settings, IndexShard(2, 2), report=report)
    assert begun[0] == done > 0
    build_shard(corpus, tmp_path / "index", settings, IndexShard(1, 2))
    build_index(corpus, tmp_path / "whole", settings)
    vectors, expected = (np.load(tmp_path / name / "embeddings.npy") for name in ("index", "whole"))
    np.testing.assert_allclose(vectors, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_ranks_of_torchrun_make_one_index(tmp_path: Path, model: str) -> None:
    """Two processes, one command, one index."""
    texts = [f"{TEXTS[i % 40]} {i}" for i in range(600)]
    corpus = corpus_of(tmp_path, texts)
    command = ["-m", "model_hub_rqa.cli", "index", "--corpus", str(corpus), "--retriever", "dense"]
    command += ["--embedding-model", model, "--output", str(tmp_path / "index")]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment: dict[str, Any] = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*torchrun, *command], check=True, env=environment, timeout=300, capture_output=True)
    index = open_index(tmp_path / "index")
    assert [one.id for one in index.passages] == [f"d{i}" for i in range(600)]
    assert not list(tmp_path.glob("index.*"))
