"""The helpers that trials of model-hub import."""

import multiprocessing
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from model_hub_rqa.errors import ConfigError, DataError
from model_hub_rqa.utils import AttrDict, compute_num_training_steps, download_url, expand_like, load_metric, numpify


def test_keys_are_attributes() -> None:
    """Nested mappings too, and changes through either show in the other; a missing key is named."""
    found = AttrDict({"data": {"train_file": "a.json"}, "rate": 1.0})
    found.num_labels = 2
    found["data"]["rate"] = 3
    assert (found.data.train_file, found["num_labels"], found.data.rate) == ("a.json", 2, 3)
    assert found == {"data": {"train_file": "a.json", "rate": 3}, "rate": 1.0, "num_labels": 2}
    del found.rate
    assert "rate" not in found
    with pytest.raises(AttributeError, match="finetuning_task: is not set"):
        _ = found.finetuning_task


def test_arrays_of_different_widths_are_stacked() -> None:
    """By hand; of one dimension they are joined."""
    stacked = expand_like([np.array([[1, 2]]), np.array([[3], [4]])])
    assert stacked.tolist() == [[1, 2], [3, -100], [4, -100]]
    assert expand_like([np.array([[0.5]]), np.array([[1.0, 2.0]])], fill=0).tolist() == [[0.5, 0.0], [1.0, 2.0]]
    assert expand_like([np.array([1, 2]), np.array([3])]).tolist() == [1, 2, 3]


def test_arrays_of_anything() -> None:
    for given in ([1, 2], np.array([1, 2]), torch.tensor([1, 2])):
        assert numpify(given).tolist() == [1, 2]
    with pytest.raises(TypeError, match="must be a list"):
        numpify("12")


@pytest.mark.parametrize(
    ("length", "steps"), [({"batches": 7}, 7), ({"epochs": 2}, 6), ({"records": 17}, 4), (9, 9)], ids=str
)
def test_steps_of_a_configuration(length: Any, steps: int) -> None:
    """In whole batches of four: 13 records an epoch are three."""
    config = {"searcher": {"max_length": length}, "records_per_epoch": 13}
    assert compute_num_training_steps(config, 4) == steps


@pytest.mark.parametrize(
    ("config", "error"),
    [
        ({"searcher": {"max_length": {"epochs": 2}}}, "num_training_steps: is required where .* epochs"),
        ({"searcher": {}}, "searcher.max_length: must be given in batches, epochs or records, got None"),
        ({}, "searcher.max_length: must be given"),
    ],
)
def test_steps_that_cannot_be_known(config: Any, error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        compute_num_training_steps(config, 4)


def test_squad_metrics_need_no_network() -> None:
    predictions = [{"id": "q", "prediction_text": "the oil"}]
    references = [{"id": "q", "answers": {"text": ["oil"], "answer_start": [0]}}]
    found = load_metric("squad").compute(predictions=predictions, references=references)
    assert found == {"exact_match": 100.0, "f1": 100.0}


class Files(BaseHTTPRequestHandler):
    """Serves the bytes of ``data`` at any path, but /missing; /short ends early, and /slow takes its time."""

    data = bytes(range(256)) * 300
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path.startswith("/missing"):
            self.send_error(404)
            return
        if self.path.startswith("/slow"):
            time.sleep(0.5)
        self.send_response(200)
        if not self.path.startswith("/unsized"):
            self.send_header("Content-Length", str(len(self.data)))
        self.end_headers()
        self.wfile.write(self.data[: 70_000 if self.path.startswith("/short") else None])

    def log_message(self, *args: Any) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def files() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Files) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("path", ["a/train.json", "unsized/train.json", "train.json?version=2#part", "a%20b.json"])
def test_a_file_is_downloaded_once(files: str, path: str, tmp_path: Path) -> None:
    """Under the name at the end of the URL, into a folder that is made; what is there is not asked for again."""
    found = download_url(str(tmp_path / "new" / "folder"), f"{files}/{path}")
    name = "a%20b.json" if "%" in path else "train.json"
    assert found == str(tmp_path / "new" / "folder" / name)
    assert Path(found).read_bytes() == Files.data
    Path(found).write_text("mine")
    asked = len(Files.asked)
    assert download_url(str(tmp_path / "new" / "folder"), f"{files}/{path}") == found
    assert (len(Files.asked), Path(found).read_text()) == (asked, "mine")


def test_several_processes_download_once(files: str, tmp_path: Path) -> None:
    """The first downloads, the others wait for it and then have the whole file."""
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        found = pool.starmap(download_url, [(str(tmp_path), f"{files}/slow/train.json")] * 3, chunksize=1)
    assert set(found) == {str(tmp_path / "train.json")}
    assert Path(found[0]).read_bytes() == Files.data
    assert Files.asked.count("/slow/train.json") == 1


def test_part_of_a_file_is_never_taken_for_all_of_it(files: str, tmp_path: Path) -> None:
    """Neither where the connection ends early, nor where an earlier process was killed in the middle."""
    with pytest.raises(DataError, match=r"/short/train.json: .*: got 70,000 of 76,800 bytes"):
        download_url(str(tmp_path), f"{files}/short/train.json")
    assert not (tmp_path / "train.json").exists()
    (tmp_path / "train.json.part").write_bytes(b"x" * 100_000)
    assert Path(download_url(str(tmp_path), f"{files}/train.json")).read_bytes() == Files.data
    assert {path.name for path in tmp_path.iterdir()} <= {"train.json", "train.json.lock"}


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("{files}/missing.json", r"^http://127.*/missing.json: cannot be downloaded to .*missing.json: .*404"),
        ("http://127.0.0.1:9/train.json", "train.json: cannot be downloaded to .*refused"),
        ("train.json", "^train.json: cannot be downloaded to .*unknown url type"),
        ("{files}/folder/", "/folder/: must end in the name of a file"),
        ("{files}", "must end in the name of a file"),
        ("{files}/a/..", "must end in the name of a file"),
    ],
)
def test_what_cannot_be_downloaded(files: str, url: str, error: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=error):
        download_url(str(tmp_path), url.format(files=files))
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".lock"]
