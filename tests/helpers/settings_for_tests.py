"""The least that the settings' dataclasses ask for, and their parsing."""

from typing import Any

import pytest

from model_hub_rqa.config import (
    ConfigKwargs,
    DatasetKwargs,
    ModelKwargs,
    TokenizerKwargs,
    TrainerKwargs,
    parse_dict_to_dataclasses,
)
from model_hub_rqa.config.datasets import NamedDatasetKwargs
from model_hub_rqa.errors import ConfigError

LEAST: dict[type, dict[str, Any]] = {
    ConfigKwargs: {"pretrained_model_name_or_path": "m"},
    TokenizerKwargs: {"pretrained_model_name_or_path": "m"},
    ModelKwargs: {"pretrained_model_name_or_path": "m"},
    DatasetKwargs: {"dataset_name": "d"},
    NamedDatasetKwargs: {"name": "n"},
    TrainerKwargs: {"global_batch_size": 8},
}


def parse(kind: type, **args: Any) -> Any:
    return parse_dict_to_dataclasses((kind,), {**LEAST.get(kind, {}), **args})[0]


def errors(kind: type, **args: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigError, match=r"^hyperparameters\.") as caught:
        parse(kind, **args)
    return caught.value.errors
