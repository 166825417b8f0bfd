"""Helpers that trials written for Determined's model-hub import from ``model_hub.utils`` and ``attrdict``."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_hub_rqa.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger(__name__)


class AttrDict(dict[str, Any]):
    """A dict whose keys are attributes as well; mappings in it are AttrDicts too.

    >>> AttrDict({"data": {"train_file": "a.json"}}).data.train_file
    'a.json'
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def __setitem__(self, key: str, value: Any) -> None:
        nested = isinstance(value, Mapping) and not isinstance(value, AttrDict)
        super().__setitem__(key, AttrDict(value) if nested else value)

    def __getattr__(self, key: str) -> Any:
        try:
            return self[key]
        except KeyError:
            raise AttributeError(f"{key}: is not set (it has {', '.join(self) or 'nothing'})") from None

    def __setattr__(self, key: str, value: Any) -> None:
        self[key] = value

    def __delattr__(self, key: str) -> None:
        del self[key]


def expand_like(arrays: "Sequence[np.ndarray]", fill: float = -100) -> "np.ndarray":
    """Stacks arrays that may differ in their second dimension.

    Args:
        arrays: [N_i, T_i, ...] each, or all [N_i].
        fill: what stands where an array is shorter than the longest.

    Returns:
        [sum of N_i, max of T_i, ...], in the type that holds the arrays and ``fill``; or [sum of N_i].
    """
    import numpy as np

    if arrays[0].ndim == 1:
        return np.concatenate(arrays)
    rows, width = sum(len(array) for array in arrays), max(array.shape[1] for array in arrays)
    stacked = np.full((rows, width, *arrays[0].shape[2:]), fill, np.result_type(*arrays, type(fill)))
    begin = 0
    for array in arrays:
        stacked[begin : begin + len(array), : array.shape[1]] = array
        begin += len(array)
    return stacked


def numpify(values: Any) -> "np.ndarray":
    """A list, an array or a tensor as an array.

    Raises:
        TypeError: it is none of them.
    """
    import numpy as np

    if isinstance(values, np.ndarray | list):
        return np.asarray(values)
    if hasattr(values, "detach"):
        return np.asarray(values.detach().cpu().numpy())
    raise TypeError(f"values: must be a list, a numpy.ndarray or a torch.Tensor, got {type(values).__name__}")


def compute_num_training_steps(experiment_config: Mapping[str, Any], global_batch_size: int) -> int:
    """The optimizer steps that ``searcher.max_length`` means: batches, epochs (of records_per_epoch) or records.

    Raises:
        ConfigError: there is no max_length, or epochs without ``records_per_epoch``.
    """
    length = (experiment_config.get("searcher") or {}).get("max_length")
    if isinstance(length, int):
        return length
    if not isinstance(length, Mapping) or len(length) != 1:
        raise ConfigError(f"searcher.max_length: must be given in batches, epochs or records, got {length!r}")
    ((unit, count),) = length.items()
    if unit == "batches":
        return int(count)
    if unit == "records":
        return int(count) // global_batch_size
    records = experiment_config.get("records_per_epoch")
    if unit != "epochs" or not records:
        raise ConfigError(
            "hyperparameters.num_training_steps: is required where searcher.max_length counts epochs and "
            f"records_per_epoch is unset, got {unit}"
        )
    return int(count) * (int(records) // global_batch_size)


def load_metric(name: str, config_name: str | None = None, **kwargs: Any) -> Any:
    """What ``datasets.load_metric`` was: a metric with ``compute(predictions=..., references=...)``.

    ``squad`` and ``squad_v2`` are the package's own and need no network; others come from ``evaluate.load``.
    """
    from model_hub_rqa.metrics.evaluate_metrics import SquadMetric, SquadV2Metric

    own = {"squad": SquadMetric, "squad_v2": SquadV2Metric}
    if name in own:
        return own[name](config_name, **kwargs)
    import evaluate

    return evaluate.load(name, config_name, **kwargs)


def download_url(download_directory: str, url: str) -> str:
    """Downloads a file once, however many processes ask for it; a file that is there already is taken as it is.

    Args:
        download_directory: where the file is kept; made where it is missing.
        url: its path ends in the file's name.

    Returns:
        The path of the file, which is whole: a download that ends early is never under its name.

    Raises:
        DataError: the URL has no file's name, or the file cannot be downloaded.
    """
    from http.client import HTTPException
    from urllib.parse import urlparse

    from filelock import FileLock

    name = urlparse(url).path.rpartition("/")[2]
    if name in ("", ".", ".."):
        raise DataError(f"{url}: must end in the name of a file")
    path = Path(download_directory, name)
    part = path.with_name(f"{name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not path.exists():
                logger.info("downloading %s to %s", url, path)
                _download(url, part)
                part.replace(path)
    except (OSError, ValueError, HTTPException) as error:
        raise DataError(f"{url}: cannot be downloaded to {path}: {error}") from error
    return str(path)


def _download(url: str, path: Path) -> None:
    """Writes what a URL has to a file; OSError where the connection ends before all of it is there."""
    from urllib.request import urlopen

    with urlopen(url, timeout=60) as response, path.open("wb") as file:
        shutil.copyfileobj(response, file)
    size, expected = path.stat().st_size, response.headers["Content-Length"]
    if expected is not None and size != int(expected):
        raise OSError(f"got {size:,} of {int(expected):,} bytes")
