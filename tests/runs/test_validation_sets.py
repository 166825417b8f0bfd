"""Validation over several sets in one run: each one's numbers are those that it has alone."""

import json
import math
from pathlib import Path
from typing import Any

import forked
import pytest
import tiny
import tiny_fusion
from determined import util

from model_hub_rqa import train
from model_hub_rqa.trials.validation import metrics_by_dataset


def test_metrics_go_by_set_and_by_mean() -> None:
    """In the order given; the mean is over the sets, and only of what every set reports."""
    values = {(0, 0): 1.0, (0, 1): 3.0, (1, 0): 5.0, (2, 0): 9.0}
    bounds = {"z": range(2, 3), "a": range(0, 2)}

    def compute(name: str, part: Any) -> dict[str, float]:
        mean = sum(part.values()) / len(part)
        return {"f1": mean, "n": len(part)} if name == "a" else {"f1": mean}

    found = metrics_by_dataset(values, bounds, compute)
    assert list(found.items()) == [("z/f1", 9.0), ("a/f1", 3.0), ("a/n", 3), ("f1", 6.0)]
    assert util.json_encode(found)
    one_batch = metrics_by_dataset({0: 7.0}, bounds, compute)
    assert math.isnan(one_batch.pop("z/f1"))
    assert math.isnan(one_batch.pop("z/n"))
    assert one_batch == {"a/f1": 7.0, "a/n": 1, "f1": 7.0, "n": 1}


def configurations(kind: str, folder: Path) -> dict[str, Path]:
    """One training set; validation on two sets together, and on each alone. The learning rate is 0."""
    changes = {"max_steps": 1, "learning_rate": 0.0, "per_device_eval_batch_size": 4, "global_batch_size": 4}
    if kind == "QATrial":
        path = tiny.experiment(folder, unanswerable=1, **changes)
        files = {
            "squad": tiny.squad_file(folder / "one.json", 9, unanswerable=3, seed=1),
            "quickstart": tiny.squad_file(folder / "two.json", 7, unanswerable=2, seed=2),  # with the same ids
        }
    else:
        path = tiny_fusion.experiment(folder, **changes)
        files = {
            "squad": Path(tiny_fusion.write_lines(folder / "one.jsonl", tiny_fusion.records(9))),
            "quickstart": Path(tiny_fusion.write_lines(folder / "two.jsonl", tiny_fusion.records(16)[9:])),
        }
    config = json.loads(path.read_text())
    paths = {}
    for name in ("both", *files):
        data = dict(config["data"])
        if name == "both":
            del data["validation_file"]
            data["validation"] = [{"name": key, "validation_file": str(file)} for key, file in files.items()]
        else:
            data["validation_file"] = str(files[name])
        paths[name] = folder / f"{name}.yaml"
        paths[name].write_text(json.dumps({**config, "data": data}))
    return paths


@pytest.mark.parametrize("kind", ["QATrial", "FiDTrial"])
@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_two_sets_in_one_run_equal_single_runs(kind: str, ranks: int, tmp_path: Path) -> None:
    """All metrics to the last bit, and the files of predictions, byte by byte; the mean is the mean."""
    reports, written = {}, {}
    for name, config in configurations(kind, tmp_path).items():
        run = tmp_path / f"run_{name}"
        argv = [str(config), "--output-dir", str(run)]
        if ranks == 1:
            assert train.main(argv) == 0
        else:
            assert forked.run_ranks(ranks, argv, tmp_path / f"logs_{name}") == [0] * ranks
        reports[name] = tiny.reports(run, "validation")[-1]
        written[name] = {path.name: path.read_bytes() for path in run.glob("*predictions*")}
    both, alone = reports.pop("both"), reports
    counters = {"steps", "kind", "batches", "epochs"}
    metrics = {name: {key: report[key] for key in report.keys() - counters} for name, report in alone.items()}
    for name, values in metrics.items():
        assert {key: both[f"{name}/{key}"] for key in values} == values
    shared = set.intersection(*(set(values) for values in metrics.values()))
    assert {"f1", "exact_match"} & shared or {"f1", "exact"} <= shared
    for key in shared:
        assert both[key] == pytest.approx(sum(values[key] for values in metrics.values()) / 2)
    assert len(both.keys() - counters) == sum(map(len, metrics.values())) + len(shared)
    named = [key.partition("/")[0] for key in both if "/" in key]
    assert named == sorted(named, key=["squad", "quickstart"].index)
    for name in metrics:
        for file, content in written[name].items():
            stem, ending = file.split(".")
            assert written["both"][f"{stem}_{name}.{ending}"] == content
    assert len(written["both"]) == sum(len(files) for name, files in written.items() if name != "both") > 0


@pytest.mark.parametrize("metric", ["f1", "quickstart/f1"])
def test_the_searcher_may_look_at_one_set_or_at_the_mean(metric: str, tmp_path: Path) -> None:
    """Also in test mode, where one batch is evaluated and the second set has none."""
    config = configurations("QATrial", tmp_path)["both"]
    argv = [str(config), "--config", f"searcher.metric={metric}", "--output-dir"]
    assert train.main([*argv, str(tmp_path / "run")]) == 0
    assert train.main([*argv, str(tmp_path / "test"), "--test"]) == 0
