"""Models, datasets, collators and objectives by name: registered with a decorator, chosen in a configuration.

A component registers as ``@OBJECTIVES.register("Focal")`` above a function or a class; a configuration chooses it as
``objective: {name: Focal, args: {gamma: 2.0}}``. The arguments are passed as they are, once they have been held to
the handler's signature, so that a misspelt one is found before anything heavy runs.
"""

import functools
import importlib
import inspect
import os
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, TypeVar

from model_hub_rqa.config.fields import did_you_mean, plain, show
from model_hub_rqa.errors import ConfigError, RqaError

F = TypeVar("F", bound=Callable[..., Any])


class Registry:
    """Handlers of one kind, by name.

    Args:
        kind: what the handlers make, in a word, for messages.
        homes: modules that register the package's own handlers; they are imported when a name is first looked up.
        offered: arguments that a handler gets from the trial where it takes them, and never from a configuration.
        leading: positional parameters that a function gets at each call (a class gets them when its instance is
            called), so that no configuration gives them.
    """

    def __init__(self, kind: str, homes: Iterable[str] = (), offered: Iterable[str] = (), leading: int = 0) -> None:
        self.kind = kind
        self.offered = tuple(offered)
        self.leading = leading
        self._homes = tuple(homes)
        self._handlers: dict[str, Callable[..., Any]] = {}

    def register(self, name: str) -> Callable[[F], F]:
        """A decorator that makes a function or class known as ``name``.

        Raises:
            ConfigError: another handler has the name. (The same one, from a module that is imported again, replaces
                itself.)
        """

        def add(handler: F) -> F:
            known = self._handlers.get(name)
            if known is not None and _origin(known) != _origin(handler):
                raise ConfigError(
                    f"the {self.kind} {name!r} is registered twice, by {_origin(known)} and by {_origin(handler)}"
                )
            self._handlers[name] = handler
            return handler

        return add

    def names(self) -> list[str]:
        """All names, sorted."""
        for home in self._homes:
            for module in _modules_below(home.removesuffix(".*")) if home.endswith(".*") else [home]:
                importlib.import_module(module)
        return sorted(self._handlers)

    def handler(self, name: Any) -> Callable[..., Any]:
        """The handler of a name.

        Raises:
            ValueError: there is none; the text has the nearest name and the list of all.
        """
        names = self.names()
        if not isinstance(name, str) or name not in self._handlers:
            listed = ", ".join(names) or "there is none"
            hint = did_you_mean(name, names)
            raise ValueError(f"must be a registered {self.kind} ({listed}), got {show(name)}{hint}")
        return self._handlers[name]

    def argument_faults(self, name: str, args: Mapping[str, Any]) -> list[str]:
        """What is wrong with arguments for a handler: ``argument: fault``, a line each; values are not looked at."""
        handler = self.handler(name)
        parameters = list(inspect.signature(handler).parameters.values())
        if not inspect.isclass(handler):
            parameters = parameters[self.leading :]
        named = [one for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
        own = {one.name: one for one in named if one.name not in self.offered}
        takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters)
        faults = []
        for key in args:
            if key in self.offered:
                faults.append(f"{key}: is given by the trial, not by a configuration")
            elif key not in own and not takes_any:
                known = f"it takes {', '.join(own)}" if own else "it takes none"
                faults.append(f"{key}: {name} has no such argument ({known}){did_you_mean(key, own)}")
        required = (one.name for one in own.values() if one.default is one.empty)
        return faults + [f"{key}: is required by {name}" for key in required if key not in args]


MODELS = Registry(
    "model",
    homes=["model_hub_rqa.models.build"],
    offered=["config", "tokenizer", "model_kwargs", "use_pretrained_weights"],
)
"""Handlers return the model, a torch.nn.Module."""
DATASETS = Registry(
    "dataset", homes=["model_hub_rqa.tasks.causal_lm.qa_dataset"], offered=["cache_dir", "on_bad_record"]
)
"""Handlers return examples, a datasets.Dataset in the form that the trial reads, or a `Loaded`."""
COLLATORS = Registry(
    "collator",
    homes=["model_hub_rqa.tasks.extractive.features", "model_hub_rqa.tasks.causal_lm.features"],
    offered=["tokenizer", "pad_to_multiple_of"],
)
"""Handlers return what makes a batch, a plain dict of tensors, of a list of features."""
OBJECTIVES = Registry("objective", homes=["model_hub_rqa.objectives"], leading=2)
"""Functions ``objective(task, batch, **args)``, or classes whose instances are called so; see `objectives`."""


TASKS = Registry("task", homes=["model_hub_rqa.tasks.*"])
"""Classes derived from `tasks.base.Task`."""


@dataclass(frozen=True)
class Component:
    """A handler that a configuration chose, with its arguments, which fit its signature; ``place`` is for messages."""

    registry: Registry
    name: str
    args: Mapping[str, Any]
    place: str

    def build(self, **offered: Any) -> Any:
        """What the handler makes of the arguments; of ``offered``, it gets those that it takes.

        A function with leading parameters is not called: the arguments are bound to it.

        Raises:
            RqaError: the handler's own, each line under the component's place.
        """
        handler = self.registry.handler(self.name)
        if self.registry.leading and not inspect.isclass(handler):
            return functools.partial(handler, **plain(self.args))
        taken = inspect.signature(handler).parameters
        given = {key: value for key, value in offered.items() if key in taken}
        try:
            return handler(**given, **plain(self.args))
        except RqaError as error:
            lines = [f"{self.place}{'.' if line.startswith('args.') else ': '}{line}" for line in error.problems]
            raise type(error)(lines) from error


@dataclass(frozen=True)
class Loaded:
    """What a data set's handler may return: its examples, and the settings of the trial's task, by name, that hold for
    this set alone."""

    examples: Any
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Components:
    """The components of a run; None, or nothing, where a trial's own part is used."""

    collator: Component | None = None
    model: Component | None = None
    objective: Component | None = None


def read_components(hparams: Mapping[str, Any], data: Mapping[str, Any]) -> Components:
    """Imports the plugins, and looks up all that a configuration chooses by name.

    Args:
        hparams: ``objective`` and ``model`` are read; a ``model`` with ``_target_`` is no component.
        data: ``plugins``, ``collator`` and the data sets with a ``handler`` are read.

    Raises:
        ConfigError: every plugin that does not import, every unregistered name, every argument that does not fit.
    """
    faults = import_plugins(data.get("plugins"))
    chosen: dict[str, Component | None] = {}
    model = hparams.get("model")
    for key, value, registry, place in (
        ("collator", data.get("collator"), COLLATORS, "data.collator"),
        ("model", model if is_component(model) else None, MODELS, "hyperparameters.model"),
        ("objective", hparams.get("objective"), OBJECTIVES, "hyperparameters.objective"),
    ):
        chosen[key] = None if value is None else _read(value, registry, place, faults)
    for place, entry in _sets(data):
        _read(entry, DATASETS, place, faults)
    if faults:
        raise ConfigError(faults)
    return Components(**chosen)


def _sets(data: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The data sets that handlers load, with their places: under ``datasets``, or in the lists themselves."""
    named = data.get("datasets")
    places = {f"data.datasets.{name}": entry for name, entry in named.items()} if isinstance(named, Mapping) else {}
    for side in ("train", "validation"):
        entries = data.get(side)
        for number, entry in enumerate(entries if isinstance(entries, list) else []):
            places[f"data.{side}[{number}]"] = entry
    for place, entry in places.items():
        if isinstance(entry, Mapping) and {"handler", "args"} & set(entry):
            yield place, {key: entry.get(key) for key in ("handler", "args")}


def is_component(model: Any) -> bool:
    """Whether the hyperparameter ``model`` is meant to choose a registered one, and not ``{_target_: ...}``."""
    return isinstance(model, str) or (isinstance(model, Mapping) and bool({"handler", "name"} & set(model)))


def _read(value: Any, registry: Registry, place: str, faults: list[str]) -> Component | None:
    """``NAME``, or ``{handler: NAME, args: {...}}`` (``name`` for ``handler`` is the same)."""
    given = {"handler": value} if isinstance(value, str) else value
    if not isinstance(given, Mapping) or not {"handler", "name"} & set(given):
        faults.append(f"{place}: must be a name, or a mapping with handler and args, got {show(value)}")
        return None
    keys = ("handler", "name", "args")
    found = [f"{place}.{key}: is no key here{did_you_mean(key, keys)}" for key in given if key not in keys]
    if "handler" in given and "name" in given:
        found.append(f"{place}.name: is given twice, also as handler")
    name: Any = given.get("handler", given.get("name"))
    args = given.get("args")
    args = {} if args is None else args
    try:
        registry.handler(name)
    except ValueError as fault:
        found.append(f"{place}: {fault}")
    else:
        if isinstance(args, Mapping):
            found += [f"{place}.args.{fault}" for fault in registry.argument_faults(name, args)]
        else:
            found.append(f"{place}.args: must be a mapping of arguments, got {show(args)}")
    faults += found
    return None if found else Component(registry, name, plain(args), place)


def import_plugins(names: Any) -> list[str]:
    """Imports the user's modules, which register their components; modules in the working directory are found too.

    Returns:
        The faults: for a module that does not import, its error under the frames of its own files.
    """
    if names is None:
        return []
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name for name in names):
        return [f"data.plugins: must be a list of modules, got {show(names)}"]
    see_working_directory()
    faults = []
    for name in names:
        try:
            importlib.import_module(name)
        except ConfigError as error:  # two components of one name
            faults += [f"data.plugins: {name}: {line}" for line in error.problems]
        except (Exception, SystemExit) as error:
            faults.append(f"data.plugins: {name} cannot be imported:\n{own_frames(error)}")
    return faults


def see_working_directory() -> None:
    """Lets modules in the working directory be imported, as ``python -m`` does and a command does not."""
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


def own_frames(error: BaseException) -> str:
    """A traceback from the first frame of the module itself to the last that is neither Python's nor a library's."""
    frames = [frame for frame in _frames(error.__traceback__) if not frame.filename.startswith("<frozen ")]
    frames = [frame for frame in frames if frame.filename not in (__file__, importlib.__file__)]
    libraries = (f"{os.sep}site-packages{os.sep}", os.path.dirname(os.__file__) + os.sep)
    own = [frame for frame in frames if not any(part in frame.filename for part in libraries)] or frames[:1]
    return "".join([*traceback.format_list(own), *traceback.format_exception_only(error)]).rstrip()


def _frames(trace: TracebackType | None) -> list[traceback.FrameSummary]:
    return list(traceback.extract_tb(trace))


def _modules_below(package: str) -> Iterator[str]:
    for found in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        yield found.name


def _origin(handler: Any) -> str:
    return f"{handler.__module__}.{handler.__qualname__}"
