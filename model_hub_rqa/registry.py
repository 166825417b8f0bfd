"""Models, tasks, datasets, collators and the like by name: registered with a decorator, named in a configuration.

A function or a class registers as ``@OBJECTIVES.register("Focal")``; a configuration names it as
``objective: {name: Focal, args: {gamma: 2.0}}``, or without registering as ``objective: my_package.losses:focal``. Its
arguments are checked by its signature, so that a misspelt one is an error before a model is loaded.
"""

import functools
import importlib
import inspect
import os
import pkgutil
import sys
import traceback
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from model_hub_rqa.config.fields import did_you_mean, kinds_of_hint, plain, read_value, show
from model_hub_rqa.errors import ConfigError, ErrorCollector, RqaError

F = TypeVar("F", bound=Callable[..., Any])

_NAMES = ("handler", "name")
_ARGS = ("args", "method_args")


@dataclass(eq=False)
class Registry:
    """Factories of one kind, by name.

    Args:
        kind: what the factories make, in a word, for messages.
        module: built-in module that registers the package's own, or a package, whose modules all do. It is imported
            when a name is first looked up, and "" from then on.
        injected: arguments that the package gives to a factory that has a parameter of that name; a configuration may
            not give them.
        positional: how many positional arguments a function gets at each call. The arguments of the configuration are
            bound to the function; a class is called with them, and its instance gets the positional ones.
        flat: whether arguments may stand beside the name, without ``args``.
        base: the class, as ``package.module:Class``, that an object which is not registered must derive from.
    """

    kind: str
    module: str = ""
    injected: tuple[str, ...] = ()
    positional: int = 0
    flat: bool = False
    base: str | None = None
    _factories: dict[str, Callable[..., Any]] = field(default_factory=dict, init=False)

    def register(self, name: str) -> Callable[[F], F]:
        """A decorator that registers a function or a class as ``name``.

        Raises:
            ConfigError: another factory has the name. The same one, from a module that is imported again, replaces
                itself.
        """

        def add(factory: F) -> F:
            if not factory.__module__.startswith(self.module):
                self._import_module()  # so that nobody takes a built-in name before it is there
            known = self._factories.get(name)
            if known is not None and _origin(known) != _origin(factory):
                raise ConfigError(
                    f"the {self.kind} {name!r} is registered twice, by {_origin(known)} and by {_origin(factory)}"
                )
            self._factories[name] = factory
            return factory

        return add

    def names(self) -> list[str]:
        """All names, sorted."""
        self._import_module()
        return sorted(self._factories)

    def find(self, name: Any) -> Any:
        """The factory of a registered name, or the object that ``package.module:object`` names.

        Raises:
            ValueError: there is none; the text has the nearest name and the list of all.
        """
        names = self.names()
        if isinstance(name, str) and name in self._factories:
            return self._factories[name]
        if not isinstance(name, str) or not ({".", ":"} & set(name.strip(".:"))):
            listed = ", ".join(names) or "there is none"
            hint = did_you_mean(name, names)
            rule = f"must be a registered {self.kind} ({listed}) or package.module:object"
            raise ValueError(f"{rule}, got {show(name)}{hint}")
        found = import_object(name)
        if self.base is not None and not (inspect.isclass(found) and issubclass(found, import_object(self.base))):
            raise ValueError(f"must name a class that derives from {self.base}, got {name}")
        if not callable(found):
            raise ValueError(f"must name a function or a class, got {name}, a {type(found).__name__}")
        return found

    def from_config(self, value: Any, path: str, **shared: Any) -> "RegisteredObject":
        """Reads a choice: ``NAME``, or ``{name: NAME, args: {...}}``; nothing is built.

        ``handler`` is another word for ``name``, and ``method_args`` for ``args``. Beside ``_target_: NAME``, all other
        keys are arguments.

        Args:
            value: what the configuration has.
            path: where it stands there, for messages.
            **shared: mappings for arguments of that name, if the factory takes them; keys of ``value`` win.

        Raises:
            ConfigError: no such name, or arguments that do not fit the factory's signature; all of them.
        """
        name, args, args_path, errors = self._split(value, path)
        read: dict[str, Any] = {}
        try:
            factory = self.find(name)
        except ValueError as error:
            errors.append(f"{path}: {error}")
        else:
            if isinstance(args, Mapping):
                parameters = inspect.signature(factory).parameters
                for key, value in shared.items():
                    own = {} if args.get(key) is None else args[key]
                    if key in parameters and isinstance(value, Mapping) and isinstance(own, Mapping):
                        args = {**args, key: {**value, **own}}
                read, wrong = read_arguments(factory, args, name, self.injected, self.positional)
                errors += [f"{args_path}.{line}" for line in wrong]
        if errors:
            raise ConfigError(errors)
        return RegisteredObject(self, name, factory, read, path, args_path)

    def _split(self, value: Any, path: str) -> tuple[Any, Any, str, list[str]]:
        """Name, arguments, where they stand, and the errors of the keys."""
        given = {"name": value} if isinstance(value, str) else value
        if not isinstance(given, Mapping) or not {"_target_", *_NAMES} & set(given):
            raise ConfigError(f"{path}: must be a name, or a mapping with name and args, got {show(value)}")
        flat = "_target_" in given or (self.flat and not set(_ARGS) & set(given))
        names = ["_target_"] if "_target_" in given else [key for key in _NAMES if key in given]
        args_keys = [] if flat else [key for key in _ARGS if key in given]
        errors = [f"{path}.{two[1]}: is given twice, also as {two[0]}" for two in (names, args_keys) if len(two) > 1]
        others = {key: inner for key, inner in given.items() if key not in names}
        if flat:
            return given[names[0]], others, path, errors
        known = (*_NAMES, *_ARGS)
        errors += [f"{path}.{key}: is no key here{did_you_mean(key, known)}" for key in others if key not in known]
        args_key = (*args_keys, "args")[0]
        args = {} if others.get(args_key) is None else others[args_key]
        if not isinstance(args, Mapping):
            errors.append(f"{path}.{args_key}: must be a mapping of arguments, got {show(args)}")
        return given[names[0]], args, f"{path}.{args_key}", errors

    def _import_module(self) -> None:
        if self.module:
            found = importlib.import_module(self.module)
            for below in pkgutil.walk_packages(getattr(found, "__path__", ()), f"{self.module}."):
                importlib.import_module(below.name)
        self.module = ""


@dataclass(frozen=True)
class RegisteredObject:
    """A factory that a configuration names, with arguments that fit its signature.

    Attributes:
        registry: where it was looked up.
        name: as the configuration has it.
        factory: the function or class.
        args: what it is called with.
        path, args_path: where the choice and its arguments stand in the configuration, for messages.
    """

    registry: Registry
    name: str
    factory: Callable[..., Any]
    args: Mapping[str, Any]
    path: str
    args_path: str

    def takes(self, name: str, *, required: bool = False) -> bool:
        """Whether the factory has a parameter of this name, and, if ``required``, no default for it."""
        parameter = inspect.signature(self.factory).parameters.get(name)
        return parameter is not None and not (required and parameter.default is not parameter.empty)

    def build(self, **injected: Any) -> Any:
        """What the factory makes of the arguments; of ``injected``, it gets those that it takes, and None only where it
        has no default. A function of positional arguments is not called: the arguments are bound to it.

        Raises:
            RqaError: the factory's own, each line under the object's path in the configuration. Its ValueError is a
                ConfigError.
        """
        if self.registry.positional and not inspect.isclass(self.factory):
            return functools.partial(self.factory, **plain(self.args))
        given = {key: value for key, value in injected.items() if self.takes(key, required=value is None)}
        try:
            return self.factory(**given, **plain(self.args))
        except RqaError as error:
            lines = [
                f"{self.args_path}.{line.removeprefix('args.')}" if line.startswith("args.") else f"{self.path}: {line}"
                for line in error.errors
            ]
            raise type(error)(lines) from error
        except ValueError as error:
            raise ConfigError(f"{self.path}: {error}") from error


TASKS = Registry("task", "model_hub_rqa.tasks", base="model_hub_rqa.tasks.base:Task")
MODELS = Registry(
    "model", "model_hub_rqa.models.build", injected=("config", "tokenizer", "model_kwargs", "use_pretrained_weights")
)
"""Factories return the model, a torch.nn.Module."""
DATASETS = Registry("dataset", "model_hub_rqa.tasks", injected=("cache_dir", "on_bad_record"))
"""Factories return examples, a datasets.Dataset in the format that the trial reads, or a `Loaded`."""
COLLATORS = Registry("collator", "model_hub_rqa.tasks", injected=("tokenizer", "pad_to_multiple_of"))
"""Factories return what makes a batch, a plain dict of tensors, of a list of features."""
OBJECTIVES = Registry("objective", "model_hub_rqa.objectives", positional=2)
"""Functions ``objective(task, batch, **args)``, or classes whose instances are called so; see `objectives`."""
METRICS = Registry("metric", "model_hub_rqa.metrics", positional=2)
"""Functions ``metric(predictions, references, **args)``, which return a number."""
CALLBACKS = Registry(
    "callback", "model_hub_rqa.trials.callbacks", flat=True, base="model_hub_rqa.trials.callbacks:TrialCallback"
)
FORMATS = Registry("format", "model_hub_rqa.data.formats", base="model_hub_rqa.data.formats.questions:QuestionFormat")
RETRIEVERS = Registry("retriever", "model_hub_rqa.retrieval", base="model_hub_rqa.retrieval.base:RetrieverSettings")
RERANKERS = Registry("reranker", "model_hub_rqa.retrieval")
"""Factories return an object with ``score(pairs)``; see `retrieval.rerank.Reranker`."""
REWRITERS = Registry("query rewriter", "model_hub_rqa.retrieval", positional=1)
"""Functions ``rewrite(questions, **args)``, or classes whose instances are called so; see `retrieval.queries`."""


@dataclass(frozen=True)
class Loaded:
    """What a dataset's factory may return: its examples, and the settings of the trial's task, by name, that hold for
    this dataset alone."""

    examples: Any
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RegisteredObjects:
    """What the configuration of a run names; None where a trial's own part is used."""

    collator: RegisteredObject | None = None
    model: RegisteredObject | None = None
    objective: RegisteredObject | None = None


def read_registered(hparams: Mapping[str, Any], data: Mapping[str, Any]) -> RegisteredObjects:
    """Imports ``data.plugins``, and looks up what a configuration names as collator, model and objective.

    Raises:
        ConfigError: every plugin that does not import, every unknown name, every argument that does not fit.
    """
    errors = ErrorCollector()
    if wrong := import_plugins(data.get("plugins")):
        errors.add(ConfigError(wrong))
    choices = {
        "collator": (COLLATORS, data, "data"),
        "model": (MODELS, hparams, "hyperparameters"),
        "objective": (OBJECTIVES, hparams, "hyperparameters"),
    }
    read = {
        key: errors.attempt(registry.from_config, section[key], f"{path}.{key}")
        for key, (registry, section, path) in choices.items()
        if section.get(key) is not None
    }
    errors.raise_any()
    return RegisteredObjects(**read)


def read_arguments(
    factory: Callable[..., Any], args: Mapping[str, Any], name: str, injected: Iterable[str] = (), positional: int = 0
) -> tuple[dict[str, Any], list[str]]:
    """Reads arguments by a signature; nothing is called.

    Args:
        factory: a function or a class. A parameter annotated as int, float, bool or str is read as such a field of a
            configuration is: 2.0 is an int, "2" is not.
        args: by name, as the configuration has them.
        name: of the factory, for messages.
        injected: names that the package gives.
        positional: how many of a function's first parameters are not for the configuration.

    Returns:
        The arguments, copied, and the errors, a line each: ``argument: error``.
    """
    parameters = list(inspect.signature(factory).parameters.values())
    if not inspect.isclass(factory):
        parameters = parameters[positional:]
    named = {one.name: one for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}
    own = {key: one for key, one in named.items() if key not in injected}
    takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters)
    hints = _hints(factory)
    read, errors = {}, []
    for key, value in args.items():
        if key in own:
            try:
                read[key] = _read_argument(own[key], hints.get(key, Any), value)
            except ValueError as error:
                errors.append(f"{key}: {error}")
        elif key in named:
            errors.append(f"{key}: is given by the package, not by a configuration")
        elif takes_any:
            read[key] = plain(value)
        else:
            known = f"it takes {', '.join(own)}" if own else "it takes none"
            errors.append(f"{key}: {name} has no such argument ({known}){did_you_mean(key, own)}")
    required = (one.name for one in own.values() if one.default is one.empty)
    return read, errors + [f"{key}: is required by {name}" for key in required if key not in args]


def _read_argument(parameter: inspect.Parameter, hint: Any, value: Any) -> Any:
    kinds = kinds_of_hint(hint)
    optional = value is None and types.NoneType in typing.get_args(hint)
    if optional or value == "" or not kinds or not set(kinds) <= {int, float, bool, str}:
        return plain(value)
    return read_value(field(default=parameter.default), kinds, value)


def _hints(factory: Any) -> dict[str, Any]:
    is_class = inspect.isclass(factory)
    try:
        return typing.get_type_hints(factory.__init__ if is_class else factory)
    except Exception:  # of many kinds: a name that only a type checker imports, an object without annotations
        return {}


def import_object(reference: str) -> Any:
    """The object that ``package.module:object`` names, or ``package.module.object``.

    Modules in the working directory are found as well. Raises ValueError if there is none, or its module fails.
    """
    see_working_directory()
    module, colon, _ = reference.partition(":")
    words = reference.replace(":", ".").split(".")
    if len(words) < 2:
        raise ValueError(f"must be package.module:object, got {reference!r}")
    longest = len(module.split(".")) if colon else len(words) - 1
    for cut in range(longest, longest - 1 if colon else 0, -1):
        name = ".".join(words[:cut])
        try:
            found: Any = importlib.import_module(name)
        except (Exception, SystemExit) as error:  # whatever the user's module raises
            missing = error.name if isinstance(error, ModuleNotFoundError) else None
            if missing is not None and f"{name}.".startswith(f"{missing}."):
                continue
            raise ValueError(f"{name} cannot be imported:\n{own_frames(error)}") from error
        for word in words[cut:]:
            if not hasattr(found, word):
                hint = did_you_mean(word, [known for known in dir(found) if not known.startswith("_")])
                raise ValueError(f"{name} has no {'.'.join(words[cut:])}{hint}")
            found = getattr(found, word)
        return found
    raise ValueError(f"there is no module {module if colon else words[0]}, got {reference}")


def import_plugins(names: Any) -> list[str]:
    """Imports the user's modules, which register what they define; modules in the working directory are found too.

    Returns:
        The errors: for a module that does not import, its error under the frames of its own files.
    """
    if names is None:
        return []
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name for name in names):
        return [f"data.plugins: must be a list of modules, got {show(names)}"]
    see_working_directory()
    errors = []
    for name in names:
        try:
            importlib.import_module(name)
        except ConfigError as error:  # two factories of one name
            errors += [f"data.plugins: {name}: {line}" for line in error.errors]
        except (Exception, SystemExit) as error:  # whatever the user's module raises
            errors.append(f"data.plugins: {name} cannot be imported:\n{own_frames(error)}")
    return errors


def see_working_directory() -> None:
    """Lets modules in the working directory be imported, as ``python -m`` does and a command does not."""
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


def own_frames(error: BaseException) -> str:
    """A traceback from the first frame of the module itself to the last that is neither Python's nor a library's."""
    passed = ("<frozen ", __file__, importlib.__file__)
    frames = [one for one in traceback.extract_tb(error.__traceback__) if not one.filename.startswith(passed)]
    libraries = (f"{os.sep}site-packages{os.sep}", os.path.dirname(os.__file__) + os.sep)
    own = [frame for frame in frames if not any(part in frame.filename for part in libraries)] or frames[:1]
    return "".join([*traceback.format_list(own), *traceback.format_exception_only(error)]).rstrip()


def _origin(factory: Any) -> str:
    return f"{factory.__module__}.{factory.__qualname__}"
