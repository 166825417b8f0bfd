"""The image of docker/: what is installed into it, and that it works for any user with no network.

The build needs buildah and root, and a base image: the one that RQA_CONTAINER_BASE names; else docker/make_base.sh
makes one where debootstrap is installed.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "alone")  # each builds its own: tests of a module may be divided
IMAGE, BASE = f"localhost/model-hub-rqa-test-{WORKER}", f"localhost/model-hub-rqa-test-base-{WORKER}"
EXTRAS = "retrieval,stemmer,cluster"
ANYONE = "4242:4242"  # no user of the image: an agent runs a task as the user that it was started for

PYTHON = """#!/bin/sh
# stands in for an image's python3: has the torch that TORCH says, and notes what pip is asked to do
case "$1" in
-c) [ -n "$TORCH" ] && echo "$TORCH" ;;
-m) echo "$@" >> "$LOG" ;;
esac
"""


@pytest.mark.parametrize("own", [None, "2.11.0a0+ngc"])
def test_a_torch_of_the_base_image_stays(own: str | None, tmp_path: Path) -> None:
    """Without a torch, the tested one is installed first and alone; one that is there is pinned as it is."""
    (tmp_path / "python3").write_text(PYTHON, encoding="utf-8")
    (tmp_path / "python3").chmod(0o755)
    (tmp_path / "source").mkdir()
    shutil.copy(ROOT / "constraints.txt", tmp_path / "source")
    path = f"{tmp_path}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "TORCH": own or "", "LOG": str(tmp_path / "log")}
    command = ["sh", str(ROOT / "docker/install.sh"), str(tmp_path / "source"), EXTRAS]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    asked = [line.split(" -c constraints.image.txt ")[1] for line in (tmp_path / "log").read_text().splitlines()]
    assert asked == [*(["torch"] if own is None else []), f".[{EXTRAS}]"]
    pins = (tmp_path / "source/constraints.image.txt").read_text(encoding="utf-8").splitlines()
    tested = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    torch = next(line for line in tested if line.startswith("torch=="))
    assert [(was, now) for was, now in zip(tested, pins, strict=True) if was != now] == (
        [] if own is None else [(torch, f"torch=={own}")]
    )


# ---- the image itself ----


def pip_options() -> list[str]:
    """Build arguments that hand this machine's settings of pip on, and mounts for those that are paths."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    settings = {}
    for line in listed.stdout.splitlines():
        name, _, value = line.partition("=")
        settings[name.rpartition(".")[2]] = value.strip("'\"")
    options = []
    for name in ("index-url", "extra-index-url", "find-links", "no-index", "cert"):
        if name in settings:
            options += ["--build-arg", f"PIP_{name.upper().replace('-', '_')}={settings[name]}"]
    for word in " ".join(settings.values()).split():
        # an index's pages point to files beside it
        path = Path(word.removeprefix("file://")).parent if word.startswith("file://") else Path(word)
        if path.is_absolute() and path.exists():
            options += ["--volume", f"{path}:{path}:ro"]
    return options


def buildah(*words: str, timeout: float = 900) -> str:
    # a umask that hides files from others, so that the image's readability is of its own making
    done = subprocess.run(["buildah", *words], capture_output=True, text=True, timeout=timeout, umask=0o077)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout.strip()


@pytest.fixture(scope="module")
def container() -> Iterator[str]:
    """A container of an image that is built here; both are removed again."""
    if not shutil.which("buildah") or os.geteuid():
        pytest.skip("building an image needs buildah, and root")
    base = os.environ.get("RQA_CONTAINER_BASE")
    if not base and not shutil.which("debootstrap"):
        pytest.skip("RQA_CONTAINER_BASE names no base image, and without debootstrap none can be made")
    made = []
    try:
        if not base:
            subprocess.run([str(ROOT / "docker/make_base.sh"), BASE], check=True, capture_output=True, timeout=400)
            base = BASE
            made.append(BASE)
        arguments = ["--build-arg", f"BASE_IMAGE={base}", "--build-arg", f"EXTRAS={EXTRAS}", *pip_options()]
        dockerfile = str(ROOT / "docker/Dockerfile")
        buildah("bud", "--isolation", "chroot", "-f", dockerfile, *arguments, "-t", IMAGE, str(ROOT))
        made.append(IMAGE)
        name = buildah("from", "--pull-never", IMAGE)
        yield name
        buildah("rm", name)
    finally:
        for image in reversed(made):
            subprocess.run(["buildah", "rmi", "--force", image], capture_output=True)


@pytest.fixture(scope="module")
def inside(container: str) -> Callable[..., str]:
    """Runs a script in the container with no network, as the image's user or as another; returns its stdout."""

    def run(script: str, *options: str) -> str:
        command = ["unshare", "--net", "buildah", "run", "--isolation", "chroot", *options, container, "--"]
        done = subprocess.run([*command, "sh", "-euc", script], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    return run


@pytest.mark.slow
def test_the_image_is_as_documented(inside: Callable[..., str]) -> None:
    """Its user is not root, the hub is off, code goes where Determined puts it, and no setting of pip's is left."""
    assert inside("id -un; pwd; echo $HF_HUB_OFFLINE").split() == ["rqa", "/run/determined/workdir", "1"]
    assert inside("echo $HF_HUB_OFFLINE", "--env", "HF_HUB_OFFLINE=0") == "0"
    assert inside("env | sed -n 's/=.*//; /^PIP_/p'") == "PIP_BREAK_SYSTEM_PACKAGES"
    assert inside("tail -n +3 /proc/net/dev | cut -d: -f1").split() == ["lo"]


@pytest.mark.slow
def test_the_image_has_the_tested_versions(inside: Callable[..., str]) -> None:
    """What is installed is what constraints.txt says, to the last package that the two have in common."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    tested = dict(line.lower().replace("_", "-").split("==") for line in lines if "==" in line)
    listed = inside(
        "python3 -m pip list --format freeze --path $(python3 -c 'import torch; print(torch.__path__[0])')/.."
    )
    found = dict(line.lower().replace("_", "-").split("==") for line in listed.splitlines() if "==" in line)
    assert {"torch", "transformers", "determined", "datasets", "bm25s", "pystemmer"} <= found.keys()
    ours = {name: version.partition("+")[0] for name, version in found.items() if name in tested}  # torch 2.13.0+cpu
    assert ours == {name: tested[name] for name in ours}


@pytest.mark.slow
def test_everyone_can_read_the_image(inside: Callable[..., str]) -> None:
    """No file of the packages or the examples is hidden from other users."""
    folders = "/opt/model_hub_rqa $(python3 -c 'import model_hub_rqa; print(model_hub_rqa.__path__[0])')/.."
    assert inside(f"find {folders} ! -type l ! -perm -004", "--user", "root") == ""


@pytest.mark.slow
@pytest.mark.parametrize("user", [None, ANYONE], ids=["rqa", "anyone"])
def test_the_commands_work_in_the_image(user: str | None, inside: Callable[..., str]) -> None:
    """The image's user, and one that it has never heard of, train, ask, export, index and retrieve with no network."""
    script = """
        [ "$HOME" != / ] || export HOME=$PWD # as Determined does
        out=$(mktemp -d)
        cd /opt/model_hub_rqa
        export HF_DATASETS_CACHE=$out/cache
        rqa train experiment_configs/quickstart.yaml --test --output-dir $out/run >&2 \
            --config data.max_train_samples=64 --config data.max_eval_samples=16
        rqa predict --checkpoint $out/run --question "Who?" --context "Anna lives in Rome." >&2
        rqa export --checkpoint $out/run --output $out/reader
        printf '{"_id": "a", "title": "", "text": "the cat sat"}\\n{"_id": "b", "title": "", "text": "a dog"}\\n' \
            > $out/corpus.jsonl
        printf '{"_id": "q", "text": "dog"}\\n' > $out/queries.jsonl
        rqa index --corpus $out/corpus.jsonl --retriever bm25 --output $out/index >&2
        rqa retrieve --index $out/index --queries $out/queries.jsonl --top-k 1 --output $out/found >&2
        cut -d' ' -f3 $out/found/run.trec
        ls $out/reader/model.safetensors
        rm -rf $out
    """
    found, model = inside(script, *(["--user", user] if user else [])).split()
    assert found == "b"
    assert model.endswith("/reader/model.safetensors")


@pytest.mark.slow
def test_the_image_checks_itself(inside: Callable[..., str]) -> None:
    """The documented command, for a user that the image does not know."""
    lines = inside("HOME=$PWD sh /opt/model_hub_rqa/check_image.sh", "--user", ANYONE).splitlines()
    assert {line.split()[0] for line in lines[:3]} == {"model-hub-rqa", "determined", "torch"}
    assert lines[-1] == "trained a batch of the quickstart and answered a question: the image works"


@pytest.mark.slow
def test_determined_can_start_tensorboard(inside: Callable[..., str]) -> None:
    """``det tensorboard start`` first has pip install its plugin: it is there, so that no network is asked for."""
    said = inside("HOME=$PWD python3 -m pip install --user tensorboard-plugin-profile", "--user", ANYONE)
    assert "Requirement already satisfied: tensorboard-plugin-profile" in said
    inside("python3 -c 'import tensorboard_plugin_profile'")


@pytest.mark.slow
def test_determined_can_start_a_task(inside: Callable[..., str], tmp_path: Path) -> None:
    """The agent's first step, to install its own wheel for whoever runs the task, needs no network."""
    version = next(
        line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("determined==")
    )
    wheels = tmp_path / "wheels"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(wheels), version]
    subprocess.run(command, check=True, capture_output=True)
    script = """
        export HOME=$PWD PYTHONUSERBASE=/tmp/pythonuserbase
        python3 -m pip install -q --user /opt/determined/wheels/determined*.whl
        python3 -c "import determined; print(determined.__version__)"
        rm -rf /tmp/pythonuserbase
    """
    mount = f"{wheels}:/opt/determined/wheels:ro"
    tmp_path.chmod(0o755)
    assert f"determined=={inside(script, '--user', ANYONE, '--volume', mount)}" == version
