"""Files in forms that are not the package's own, read by the `datasets` library."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_hub_rqa.data.files import ENDINGS, ending_of, iter_file
from model_hub_rqa.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

_BUILDERS = {".txt": "text", ".jsonl": "json", ".tsv": "csv", ".pq": "parquet"}  # others are named as their ending


def may_be_squad(path: str) -> bool:
    """Whether a file is in SQuAD's form by its first record, or cannot be read, which our reader says best."""
    file = Path(path)
    if not file.is_dir() and ending_of(file) not in ENDINGS:
        return not file.exists()
    try:
        first = next((record for _, record in iter_file(file)), None)
    except DataError:
        return True
    if not isinstance(first, Mapping):
        return True
    return "paragraphs" in first or ("question" in first and bool({"context", "answers", "answer"} & set(first)))


def load_any_file(path: str, settings: Mapping[str, Any]) -> "Dataset":
    """A file of any kind that `datasets` reads, by its ending; or a folder.

    Raises:
        DataError: the file is missing, or cannot be read.
    """
    import datasets

    file = Path(path)
    if not file.exists():
        raise DataError(f"{path}: no such file")
    try:
        if file.is_dir() and any((file / name).is_file() for name in ("state.json", "dataset_info.json")):
            return datasets.Dataset.load_from_disk(path)
        ending = ending_of(file)
        options = {"data_dir": path} if file.is_dir() else {"data_files": path}
        if ending == ".tsv":
            options["sep"] = "\t"
        builder = path if file.is_dir() else _BUILDERS.get(ending, ending.removeprefix("."))
        if file.is_dir():
            options = {}
        return datasets.load_dataset(builder, split="train", cache_dir=settings.get("cache_dir"), **options)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = str(error.__cause__ or error).strip().split("\n")[0]
        raise DataError(f"{path}: cannot be read: {reason}") from error


def concatenated(parts: "Sequence[Dataset]") -> "Dataset":
    """Data sets one after another."""
    from datasets import concatenate_datasets

    return parts[0] if len(parts) == 1 else concatenate_datasets(list(parts))
