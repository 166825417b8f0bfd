"""Every shipped configuration against Determined's own JSON schemas, in the folder that RQA_EXPCONF names."""

import copy
import os
from pathlib import Path
from typing import Any

import pytest
from determined.common import util
from expconf import Schemas, experiment_errors

ROOT = Path(__file__).parents[2]
CONFIGS = sorted([*(ROOT / "experiment_configs").glob("*.yaml"), *(ROOT / "examples").glob("*/*.yaml")])


class _Removed:
    """Takes a key out; its name in the tests' ids is the same in every process."""

    def __repr__(self) -> str:
        return "REMOVE"


REMOVE: Any = _Removed()


@pytest.fixture(scope="module")
def schemas() -> Schemas:
    """The schemas; what they hold a configuration to is skipped only where RQA_EXPCONF is unset."""
    folder = os.environ.get("RQA_EXPCONF")
    if not folder:
        pytest.skip("RQA_EXPCONF is not set")
    return Schemas.of_folder(folder)


def read(text: str) -> Any:
    return util.safe_load_yaml_with_exceptions(text)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_configuration_is_accepted(path: Path, schemas: Schemas) -> None:
    """Neither the schemas, in either pass, nor the master's rules find an error."""
    assert experiment_errors(schemas, read(path.read_text(encoding="utf-8"))) == []


GOOD = read(
    """
    name: good
    entrypoint: module:Class
    hyperparameters:
      global_batch_size: 8
      learning_rate: {type: log, base: 10, minval: -5, maxval: -3, count: 3}
      nested: {inner: {type: categorical, vals: [1, 2]}, plain: text}
    searcher:
      name: adaptive_asha
      metric: f1
      max_trials: 16
      max_time: 100
      time_metric: batches
    min_validation_period: {batches: 10}
    resources: {slots_per_trial: 1, shm_size: 4 GiB}
    checkpoint_storage: {type: shared_fs, host_path: /ckpt, storage_path: determined}
    environment: {image: {cuda: image}, environment_variables: [HF_HUB_OFFLINE=1]}
    bind_mounts: [{host_path: /data, container_path: /data, read_only: true}]
    """
)
SINGLE = {"name": "single", "metric": "f1"}
GRID = {"name": "grid", "metric": "f1"}
HP, LR = "hyperparameters", "hyperparameters.learning_rate"


def changed(changes: dict[str, Any]) -> Any:
    """GOOD with the values at dotted places replaced, or removed."""
    config = copy.deepcopy(GOOD)
    for place, value in changes.items():
        *parents, last = place.split(".")
        inner = config
        for name in parents:
            inner = inner[name]
        if value is REMOVE:
            del inner[last]
        else:
            inner[last] = value
    return config


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"name": REMOVE, "checkpoint_storage": REMOVE},  # the cluster's
        {"data": {"anything": [{"at": "all"}]}},
        {"searcher": SINGLE},
        {"searcher": {**SINGLE, "max_length": {"epochs": 2}}},
        {"searcher": {**SINGLE, "max_length": 100}},
        {"searcher": GRID},
        {"searcher.max_rungs": 3.0},  # YAML's 3.0 reaches the master as 3
        {"entrypoint": ["python3", "-m", "module"]},
        {"environment.image": "image"},
        {f"{HP}.kind": {"kind": "free"}},
        {"checkpoint_storage": {"type": "directory", "container_path": "/ckpt"}},
    ],
    ids=str,
)
def test_right_configurations(changes: dict[str, Any], schemas: Schemas) -> None:
    """What Determined takes is not refused."""
    assert experiment_errors(schemas, changed(changes)) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"learning_rate": 1}, "<config>: learning_rate is not a known key"),
        ({"version": 1}, "<config>: version is not a known key"),
        ({"entrypoint": REMOVE}, "<config>: entrypoint is required"),
        ({"entrypoint": [1]}, "<config>.entrypoint[0]: must be string"),
        ({"searcher": REMOVE}, "<config>: searcher is required"),
        ({"searcher.metric": REMOVE}, "<config>.searcher: metric is required"),
        ({"searcher.metric": None}, "<config>.searcher: metric is required"),
        ({"searcher.name": REMOVE}, "<config>.searcher: name is required"),
        ({"searcher.name": "hyperband"}, "<config>.searcher: is not an object where"),
        ({"searcher.name": "adaptive"}, "<config>.searcher: max_time is not a known key"),
        ({"searcher.max_time": REMOVE}, "<config>.searcher: max_time is required by adaptive_asha"),
        ({"searcher.time_metric": REMOVE}, "<config>.searcher: time_metric is required by adaptive_asha"),
        ({"searcher.max_trials": REMOVE}, "<config>.searcher: max_trials is required"),
        ({"searcher.max_trials": 0}, "<config>.searcher.max_trials: must keep minimum 1"),
        ({"searcher.max_time": 1.5}, "<config>.searcher.max_time: must be integer or null"),
        ({"searcher.divisor": 1}, "<config>.searcher.divisor: must keep exclusiveMinimum 1"),
        ({"searcher.mode": "brave"}, "<config>.searcher.mode: must be one of"),
        ({"searcher": {**SINGLE, "max_time": 5}}, "<config>.searcher: max_time is not a known key"),
        ({"searcher": {**SINGLE, "max_trials": 5}}, "<config>.searcher: max_trials is not a known key"),
        ({"searcher": {**SINGLE, "max_length": {"epochs": 0}}}, "max_length.epochs: must keep minimum 1"),
        ({"searcher": {**SINGLE, "max_length": {"steps": 5}}}, "max_length: a length object must have one attribute"),
        ({"searcher": {"name": "custom", "metric": "f1"}}, "<config>.searcher: custom has been removed"),
        ({"min_validation_period": {"epochs": 1, "batches": 1}}, "<config>.min_validation_period: a length object"),
        ({"min_validation_period": 1}, "<config>.min_validation_period: must be object or null"),
        ({f"{LR}.base": REMOVE}, f"<config>.{LR}: base is required"),
        ({f"{LR}.minval": -3}, f"<config>.{LR}: minval and maxval must keep a<b"),
        ({f"{LR}.type": "logarithmic"}, f'<config>.{LR}: if a hyperparameter object\'s ["type"] is set'),
        ({f"{HP}.nested.type": "text"}, f'<config>.{HP}.nested: if a hyperparameter object\'s ["type"] is set'),
        ({f"{HP}.nested.inner.vals": REMOVE}, f"<config>.{HP}.nested.inner: vals is required"),
        ({f"{HP}.nested.inner.count": 2}, f"<config>.{HP}.nested.inner: count is not a known key"),
        ({"searcher": GRID, f"{LR}.count": REMOVE}, "grid search is in use but count was not provided"),
        ({"resources.slots": 2}, "<config>.resources: slots is not a known key"),
        ({"resources.slots_per_trial": -1}, "<config>.resources.slots_per_trial: must keep minimum 0"),
        ({"resources.shm_size": "much"}, "<config>.resources.shm_size: must be a valid memory size"),
        ({"checkpoint_storage.storage_path": "/other"}, "must either be a relative directory or a subdirectory"),
        ({"checkpoint_storage.type": "tape"}, "<config>.checkpoint_storage: is not an object where"),
        ({"environment.image": ["image"]}, "<config>.environment.image: must be object or string or null"),
        ({"environment.pod_spec": {"name": "mine"}}, "pod_spec.name: pod Name is not a configurable option"),
        ({"bind_mounts": [{"host_path": "data", "container_path": "/d"}]}, "host_path must be an absolute path"),
        ({"bind_mounts": [{"host_path": "/data"}]}, "<config>.bind_mounts[0]: container_path is required"),
        ({"max_restarts": -1}, "<config>.max_restarts: must keep minimum 0"),
        ({"checkpoint_policy": "last"}, "<config>.checkpoint_policy: must be one of"),
    ],
    ids=str,
)
def test_wrong_configurations(changes: dict[str, Any], told: str, schemas: Schemas) -> None:
    """What Determined refuses is refused here, with the place and the reason."""
    found = experiment_errors(schemas, changed(changes))
    assert any(told in error for error in found), found
