"""The lists of named data sets in the data section: ``train: [{name: squad, train_file: ...}, news]``."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from model_hub_rqa.config.fields import FieldError, TrueOrFalse, did_you_mean, init_fields, names_of, option, show
from model_hub_rqa.config.kwargs import DatasetKwargs, Kwargs
from model_hub_rqa.config.parsing import parse_dict_to_dataclasses
from model_hub_rqa.errors import ConfigError, ErrorCollector
from model_hub_rqa.metrics.languages import language_error
from model_hub_rqa.registry import DATASETS, RegisteredObject

SPLITS = ("train", "validation")
_NAME = re.compile(r"[\w.-]+")
_SOURCES = ("dataset_name", "train_file", "validation_file")
_NEEDS_DATASETS = (
    "needs a dataset whose factory takes it, as QADataset does; files are read with the fields of the data section"
)
_INHERITED = ("on_bad_record", "language", "cache_dir", "overwrite_cache", "revision", "token", "dataset_config_name")


@dataclass(frozen=True, kw_only=True)
class NamedDatasetKwargs(Kwargs):
    """One data set of a list: its name, and the settings of `DatasetKwargs` that say what it holds.

    A data set under ``data.datasets`` may be named in both splits; each takes the fields that are its own.
    """

    name: str = option(help="what its metrics and its batches are called")
    dataset_name: str | None = option(None, help="a data set on the hub, or a folder of one: its split of this name")
    dataset_config_name: str | None = option(None, help="which configuration of the data set")
    handler: str | None = option(
        None, help="a registered dataset, or package.module:object, that loads it, in place of a file"
    )
    args: Mapping[str, Any] | None = option(None, help="its arguments", aliases=("method_args",))
    train_file: list[Any] | str | None = option(None, help="the file to train on, or several, as in the data section")
    validation_file: list[Any] | str | None = option(None, help="the file to evaluate on, or several")
    format: str | None = option(None, help="of its files, for tasks that read several; unset: as data's")
    fields: Mapping[str, Any] | None = option(None, help="where its records have what; unset: as data's")
    max_train_samples: int | None = option(None, ge=1, help="train on no more examples of it than this")
    max_eval_samples: int | None = option(None, ge=1, help="evaluate on no more examples of it than this")
    seed: int | None = option(None, ge=0, lt=2**32, help="of the draw of those examples; unset: the run's")
    on_bad_record: str | None = option(
        None, choices=("error", "skip"), help="what a record that breaks a rule does; unset, like the rest: as data's"
    )
    language: str | None = option(None, help="of its answers; unset: as data's")
    cache_dir: str | None = option(None, help="where data sets are kept")
    overwrite_cache: bool | None = option(None, help="make features anew")
    revision: str | None = option(None, help="branch, tag or commit of the data set")
    token: TrueOrFalse | str | None = option(
        None, help="the hub's token, or true for the saved one", aliases=("use_auth_token",), secret=True
    )

    factory: RegisteredObject | None = field(default=None, init=False)  # of handler and args; None for files

    def errors(self) -> Iterator[FieldError]:
        given = [name for name in (*_SOURCES, "format", "fields") if getattr(self, name) is not None]
        beside = [name for name in ("handler", "args") if getattr(self, name) is not None]
        if beside:
            yield from (FieldError((name, *beside), f"is ignored beside {beside[0]}") for name in given)
        if self.language is not None and (error := language_error(self.language)):
            yield FieldError(("language",), error)
        if self.name is not None and not _NAME.fullmatch(self.name):
            yield FieldError(("name",), f"must be of letters, digits, '_', '-' and '.', got {show(self.name)}")


def parse_datasets(data: DatasetKwargs) -> dict[str, tuple[NamedDatasetKwargs, ...]]:
    """The data sets of both splits, where the data section lists any.

    Returns:
        "train" and "validation": the data sets in their order. A split without a list is one whose name is "". Empty
        where neither split has a list.

    Raises:
        ConfigError: every error of every entry; among them an unknown name in an entry, a set that is not under
            ``data.datasets``, and two of one name in a split.
    """
    if data.train is None and data.validation is None:
        if data.template_args is not None:
            raise ConfigError(f"data.template_args: {_NEEDS_DATASETS}")
        return {}
    errors = ErrorCollector()
    sets = {}
    for split in SPLITS:
        entries = getattr(data, split)
        found = [_plain_dataset(data)] if entries is None else _read_entries(entries, split, data, errors)
        sets[split] = tuple(found)
    errors.raise_any()
    factories = [one.factory for found in sets.values() for one in found if one.factory is not None]
    if data.template_args is not None and not any(one.takes("template_args") for one in factories):
        raise ConfigError(f"data.template_args: {_NEEDS_DATASETS}")
    return sets


def check_factories(data: Mapping[str, Any]) -> None:
    """Looks up the factories of all datasets, used or not, and their arguments.

    Args:
        data: the section as it stands in the configuration.

    Raises:
        ConfigError: every unknown name, and every argument that does not fit.
    """
    named = data.get("datasets")
    named = named if isinstance(named, Mapping) else {}
    entries = {f"data.datasets.{name}": (name, one) for name, one in named.items()}
    for split in SPLITS:
        listed: Any = data.get(split)
        for number, one in enumerate(listed if isinstance(listed, list) else []):
            if isinstance(one, Mapping):
                entries[f"data.{split}[{number}]"] = (one.get("name"), one)
    errors = ErrorCollector()
    for path, (name, entry) in entries.items():
        errors.attempt(_factory, name, entry, path, data.get("template_args"))
    errors.raise_any()


def _factory(name: Any, entry: Any, path: str, template_args: Any = None) -> RegisteredObject | None:
    """What loads a dataset: its ``handler``, or, where it has none and no files, the factory of its own name.

    ``template_args`` are those of all datasets; the entry's own ``args.template_args`` win.
    """
    given = {} if entry is None else entry
    if not isinstance(given, Mapping):
        return None
    choice = {key: given[key] for key in ("args", "method_args") if key in given}
    if given.get("handler") is not None:
        choice["handler"] = given["handler"]
    if not choice and (any(given.get(key) is not None for key in _SOURCES) or name not in DATASETS.names()):
        return None
    return DATASETS.from_config({"handler": name, **choice}, path, template_args=template_args)


def _plain_dataset(data: DatasetKwargs) -> NamedDatasetKwargs:
    names = {field.name for field in init_fields(NamedDatasetKwargs)}
    given = {name: value for name, value in vars(data).items() if name in names and value is not None}
    plain = NamedDatasetKwargs(name="plain", **given)
    object.__setattr__(plain, "name", "")  # a name that no entry can have
    return plain


def _read_entries(
    entries: list[Any] | str, split: str, data: DatasetKwargs, errors: ErrorCollector
) -> list[NamedDatasetKwargs]:
    found: list[NamedDatasetKwargs] = []
    names: dict[str, int] = {}
    if isinstance(entries, str):  # one set, whose metrics have no name before them
        one = errors.attempt(_read_entry, entries, f"data.{split}", split, data)
        if one is None:
            return []
        object.__setattr__(one, "name", "")
        return [one]
    for number, entry in enumerate(entries):
        config_path = f"data.{split}[{number}]"
        one = errors.attempt(_read_entry, entry, config_path, split, data)
        if one is None:
            continue
        if names.setdefault(one.name, number) != number:
            other = f"data.{split}[{names[one.name]}]"
            errors.add(ConfigError(f"{config_path}.name: must be of one set only, got {one.name!r}, as {other}"))
        found.append(one)
    return found


def _read_entry(entry: Any, config_path: str, split: str, data: DatasetKwargs) -> NamedDatasetKwargs:
    """One entry of a list: a mapping, or the name of a set under ``data.datasets``."""
    if isinstance(entry, str):
        known = data.datasets or {}
        if entry not in known:
            listed = f" (there are {', '.join(known)})" if known else ", which is empty"
            raise ConfigError(
                f"{config_path}: must be a set under data.datasets{listed}, got {entry!r}{did_you_mean(entry, known)}"
            )
        config_path = f"data.datasets.{entry}"
        named = {} if known[entry] is None else known[entry]
        entry = {"name": entry, **named} if isinstance(named, Mapping) else named
    if not isinstance(entry, Mapping):
        raise ConfigError(
            f"{config_path}: must be a mapping, or the name of a set under data.datasets, got {show(entry)}"
        )
    names = [name for field in init_fields(NamedDatasetKwargs) for name in names_of(field)]
    errors = [
        f"{config_path}.{name}: is not a known name{did_you_mean(name, names)}" for name in entry if name not in names
    ]
    inherited = {name: getattr(data, name) for name in _INHERITED if getattr(data, name) is not None}
    try:
        taken = {name: value for name, value in entry.items() if name in names}
        (one,) = parse_dict_to_dataclasses((NamedDatasetKwargs,), {**inherited, **taken}, section=config_path)
    except ConfigError as error:
        raise ConfigError([*errors, *error.errors]) from error
    file = "train_file" if split == "train" else "validation_file"
    assert isinstance(one, NamedDatasetKwargs)
    factory = _factory(one.name, entry, config_path, data.template_args)
    object.__setattr__(one, "factory", factory)
    if getattr(one, file) is None and one.dataset_name is None and factory is None:
        errors.append(f"{config_path}.{file}: is required in a set of data.{split} (or dataset_name, or handler)")
    if errors:
        raise ConfigError(errors)
    return one
