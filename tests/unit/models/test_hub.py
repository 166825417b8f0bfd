"""Whether a model's name can be loaded: folders, the hub's cache, and a hub of the test's own."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from model_hub_rqa.models.hub import TOKENIZER_FILES, WEIGHT_FILES, check_model_name, check_model_names

COMMIT = "0" * 40
OFFLINE = "is neither a folder nor in the hub's cache, and HF_HUB_OFFLINE is set"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A hub's cache with one model, org/cached: main has a config.json and nothing else."""
    repo = tmp_path / "hub" / "models--org--cached"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(COMMIT)
    (repo / "snapshots" / COMMIT).mkdir(parents=True)
    (repo / "snapshots" / COMMIT / "config.json").write_text("{}")
    return repo.parent


def test_a_folder_with_a_config_is_right(tmp_path: Path) -> None:
    """A folder counts by the files that it holds."""
    (tmp_path / "config.json").write_text("{}")
    assert check_model_name("field", str(tmp_path)) is None
    assert check_model_name("field", str(tmp_path), files=("config.json", "other")) is None


@pytest.mark.parametrize(
    ("name", "files", "error"),
    [
        ("empty", ("config.json",), "has no config.json"),
        ("empty", ("a", "b"), "has none of a, b"),
        ("file", ("config.json",), "is a file, not a folder"),
        ("missing", ("config.json",), "is not a folder that exists"),
    ],
)
def test_a_path_that_cannot_be_loaded_is_named(tmp_path: Path, name: str, files: tuple[str, ...], error: str) -> None:
    """The error names the field, the path and what is wrong with it."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    path = str(tmp_path / name)
    assert check_model_name("field", path, files=files) == f"field: {path!r} {error}"


@pytest.mark.parametrize("name", ["./here", "~/here", "a/b/c"])
def test_what_looks_like_a_path_is_not_sought_on_the_hub(name: str) -> None:
    """No hub has a name with a leading point or tilde, or with two slashes."""
    assert check_model_name("field", name) == f"field: {name!r} is not a folder that exists"


@pytest.mark.parametrize(
    ("name", "revision", "files", "error"),
    [
        ("org/cached", None, ("config.json",), None),
        ("org/cached", "main", ("config.json",), None),
        ("org/cached", COMMIT, ("config.json",), None),
        ("org/cached", "v2", ("config.json",), OFFLINE.replace("cache,", "cache at revision 'v2',")),
        ("org/cached", None, ("x", "y"), "has none of x, y in the hub's cache, and HF_HUB_OFFLINE is set"),
        ("org/other", None, ("config.json",), OFFLINE),
        ("bert", None, ("config.json",), OFFLINE),
    ],
)
def test_offline_only_the_cache_counts(
    cache: Path, name: str, revision: str | None, files: tuple[str, ...], error: str | None
) -> None:
    """With HF_HUB_OFFLINE a name is right where the cache has the file at that revision."""
    found = check_model_name("field", name, revision, files=files, cache_dir=str(cache))
    assert found == (None if error is None else f"field: {name!r} {error}")


def test_a_name_that_no_hub_takes_is_a_error() -> None:
    """A name is checked by the hub's own rules."""
    error = check_model_name("field", "two words")
    assert error is not None
    assert error.startswith("field: 'two words' is neither a folder nor a model's name: Repo id must use ")


def test_a_bad_name_is_found_without_transformers() -> None:
    """Neither torch nor transformers is loaded for it."""
    code = """
import sys
from model_hub_rqa.models.hub import check_model_name
assert check_model_name("field", "org/other") is not None
print(sorted({"torch", "transformers"} & set(sys.modules)))
"""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root, env=environment)
    assert done.stdout.strip() == "[]"


# ---- online ----


class _Hub(BaseHTTPRequestHandler):
    """Answers HEAD requests as huggingface.co does: the error's name is in a header."""

    errors = {  # noqa: RUF012 - a table that nobody changes
        "/org/gated/": (403, "GatedRepo"),
        "/org/none/": (401, "RepoNotFound"),
        "/org/model/resolve/v2/": (404, "RevisionNotFound"),
        "/org/broken/": (500, ""),
    }

    def do_HEAD(self) -> None:
        status, error = next((found for path, found in self.errors.items() if self.path.startswith(path)), (200, ""))
        if status == 200 and not self.path.endswith("config.json"):
            status, error = 404, "EntryNotFound"
        self.send_response(status)
        if error:
            self.send_header("X-Error-Code", error)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", '"tag"')
        self.send_header("Content-Length", "2")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged."""


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A hub on this machine, asked in place of huggingface.co, and an empty cache."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    yield
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("online")
@pytest.mark.parametrize(
    ("name", "revision", "files", "error"),
    [
        ("org/model", None, ("config.json",), None),
        ("org/model", None, ("x.json", "config.json"), None),
        ("org/model", None, ("x.json",), "has no x.json on the hub"),
        ("org/model", "v2", ("config.json",), "has no revision 'v2' on the hub"),
        ("org/gated", None, ("config.json",), "is gated on the hub: ask for access there and give token"),
        (
            "org/none",
            None,
            ("config.json",),
            "is neither a folder nor a model on the hub (a private one needs token)",
        ),
    ],
)
def test_online_the_hub_is_asked(name: str, revision: str | None, files: tuple[str, ...], error: str | None) -> None:
    """What is not in the cache is sought on the hub, and its answer is told in plain words."""
    found = check_model_name("field", name, revision, files=files)
    assert found == (None if error is None else f"field: {name!r} {error}")


@pytest.mark.usefixtures("online")
def test_a_hub_that_fails_is_a_error() -> None:
    """An error of the hub or the network is reported with the client's own words."""
    error = check_model_name("field", "org/broken")
    assert error is not None
    assert error.startswith("field: 'org/broken' is not a folder, and the hub cannot be asked: HfHubHTTPError: ")


# ---- the names of a run ----


def test_one_wrong_name_is_one_error() -> None:
    """A name that config, tokenizer and model share is reported once."""
    kwargs = {"pretrained_model_name_or_path": "org/other"}
    assert check_model_names(kwargs, kwargs, kwargs) == [
        f"hyperparameters.pretrained_model_name_or_path: 'org/other' {OFFLINE}"
    ]


def test_each_part_needs_its_own_files(tmp_path: Path) -> None:
    """Config, tokenizer and weights are sought apart; without pretrained weights the model's name is not looked at."""
    (tmp_path / "config.json").write_text("{}")
    kwargs = {"pretrained_model_name_or_path": str(tmp_path)}
    place = f"hyperparameters.pretrained_model_name_or_path: {str(tmp_path)!r} has none of "
    weights = place + ", ".join(WEIGHT_FILES)
    tokenizer = place + ", ".join(TOKENIZER_FILES)
    assert check_model_names(kwargs, kwargs, kwargs) == [tokenizer, weights]
    assert check_model_names(kwargs, kwargs, kwargs, pretrained=False) == [tokenizer]


def test_a_parts_own_name_is_told_apart() -> None:
    """Where one part has another name than the rest, the error says which; a part without a name is not looked at."""
    shared, own = {"pretrained_model_name_or_path": "org/a"}, {"pretrained_model_name_or_path": "org/b"}
    assert check_model_names(shared, own, shared, section="") == [
        f"pretrained_model_name_or_path: 'org/a' {OFFLINE}",
        f"pretrained_model_name_or_path or tokenizer_name: 'org/b' {OFFLINE}",
    ]
    assert check_model_names({}, {}, {}) == []
