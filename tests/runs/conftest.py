"""What the runs on a stand-in's cluster share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_runs import Trial, tiny_trial
from stand_in_master import StandInMaster


@pytest.fixture
def master() -> Iterator[StandInMaster]:
    with StandInMaster() as master:
        yield master


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    return tiny_trial(tmp_path)
