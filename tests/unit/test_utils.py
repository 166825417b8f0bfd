"""The helpers that trials of model-hub import."""

from typing import Any

import numpy as np
import pytest
import torch

from model_hub_rqa.errors import ConfigError
from model_hub_rqa.utils import AttrDict, compute_num_training_steps, expand_like, load_metric, numpify


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
