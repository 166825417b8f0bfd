"""Registered objects: names, references, arguments, plugins, and every error at once before a model is loaded."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from model_hub_rqa.config.datasets import check_factories
from model_hub_rqa.errors import ConfigError
from model_hub_rqa.registry import COLLATORS, DATASETS, MODELS, OBJECTIVES, Registry, read_arguments, read_registered


@pytest.fixture
def things() -> Registry:
    registry = Registry("thing", injected=("tokenizer",))

    @registry.register("Pair")
    def pair(left: int, right: int = 2, tokenizer: Any = None) -> tuple[Any, ...]:
        return left, right, tokenizer

    @registry.register("Any")
    class Anything:
        def __init__(self, **settings: Any) -> None:
            self.settings = settings

    return registry


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, whose modules are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    kept = [(registry, dict(registry._factories)) for registry in (MODELS, DATASETS, COLLATORS, OBJECTIVES)]
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("plugin_"):
            del sys.modules[name]
    for registry, handlers in kept:
        registry._factories.clear()
        registry._factories.update(handlers)


@pytest.mark.parametrize(
    ("name", "args", "errors"),
    [
        ("Pair", {"left": 1}, []),
        ("Pair", {"left": 1, "right": 3}, []),
        (
            "Pair",
            {"lfet": 1, "left": 1},
            ["lfet: Pair has no such argument (it takes left, right): did you mean left?"],
        ),
        ("Pair", {"right": 3}, ["left: is required by Pair"]),
        ("Pair", {"left": 1, "tokenizer": "t"}, ["tokenizer: is given by the package, not by a configuration"]),
        ("Any", {"whatever": 1}, []),
        ("Pair", {"left": "1"}, ["left: must be a whole number, got '1': write 1 without quotes"]),
        ("Pair", {"left": 1, "right": None}, ["right: must be a whole number, got null"]),
    ],
)
def test_arguments_are_held_to_the_signature(
    name: str, args: dict[str, Any], errors: list[str], things: Registry
) -> None:
    """What a handler does not take, and what it needs and is not given, is found without calling it."""
    assert read_arguments(things.find(name), args, name, things.injected)[1] == errors


def test_a_function_of_positional_arguments_is_given_the_rest() -> None:
    """Those that come with each call are neither required of a configuration nor taken from one."""
    registry = Registry("rule", positional=2)
    registry.register("rule")(lambda task, batch, weight=1.0: None)
    assert registry.from_config({"name": "rule", "args": {"weight": 2}}, "x").build().keywords == {"weight": 2}
    with pytest.raises(ConfigError, match=r"^x\.args\.batch: rule has no such argument \(it takes weight\)$"):
        registry.from_config({"name": "rule", "args": {"batch": 2}}, "x")


def test_a_name_is_one_factories(things: Registry) -> None:
    """Another handler of the name is refused; the same one, imported again, replaces itself."""

    def other() -> None: ...

    with pytest.raises(ConfigError, match=r"the thing 'Pair' is registered twice, by .*pair and by .*other"):
        things.register("Pair")(other)
    things.register("Other")(other)
    again = type(other)(other.__code__, other.__globals__, "other")
    again.__qualname__ = other.__qualname__
    assert things.register("Other")(again) is again
    assert things.find("Other") is again


def test_an_unregistered_name_comes_with_the_nearest_and_the_list(things: Registry) -> None:
    """So does a name that is no text."""
    with pytest.raises(
        ValueError,
        match=r"must be a registered thing \(Any, Pair\) or package\.module:object, got 'Piar': did you mean Pair\?",
    ):
        things.find("Piar")
    with pytest.raises(ValueError, match=r"must be a registered thing \(Any, Pair\) or package\.module:object, got 3$"):
        things.find(3)
    with pytest.raises(
        ValueError, match=r"must be a registered spoon \(there is none\) or package\.module:object, got 'Pair'"
    ):
        Registry("spoon").find("Pair")


def test_the_packages_own_components() -> None:
    """The four registries know what the package brings."""
    assert {"AutoModel"} <= set(MODELS.names())
    assert {"QADataset"} <= set(DATASETS.names())
    assert {"ExtractiveCollator", "GenerationCollator"} <= set(COLLATORS.names())
    assert {"GradAscent", "GradDiff", "NPO", "finetune"} <= set(OBJECTIVES.names())


def test_what_a_configuration_chooses(workplace: Path) -> None:
    """By name alone, by handler or name with args, and out of a module in the working directory."""
    (workplace / "plugin_good.py").write_text(
        "from model_hub_rqa import COLLATORS, OBJECTIVES\n"
        "@OBJECTIVES.register('Scaled')\n"
        "def scaled(task, batch, factor=1.0):\n    return factor * task.loss(batch)\n"
        "@COLLATORS.register('Count')\n"
        "class Count:\n"
        "    def __init__(self, step, pad_to_multiple_of):\n        self.step = step, pad_to_multiple_of\n"
    )
    chosen = read_registered(
        {"objective": {"name": "Scaled", "method_args": {"factor": 3.0}}},
        {"plugins": ["plugin_good"], "collator": {"handler": "Count", "args": {"step": 2}}},
    )
    assert chosen.model is None
    assert chosen.objective is not None
    assert chosen.objective.build()(type("T", (), {"loss": staticmethod(len)}), "four") == 12
    assert chosen.collator is not None
    assert chosen.collator.build(pad_to_multiple_of=8, tokenizer="not taken").step == (2, 8)
    assert read_registered({"objective": "finetune"}, {}).objective is not None


def test_every_error_at_once(workplace: Path) -> None:
    """A plugin that does not import, unregistered names, arguments that are not taken, wrong forms."""
    (workplace / "plugin_broken.py").write_text("import json\n\ndef load():\n    return json.loads('{')\n\nload()\n")
    data = {
        "plugins": ["plugin_broken", "plugin_nowhere"],
        "datasets": {
            "A": {"handler": "QADatset"},
            "B": {"handler": "QADataset", "args": {"question_kye": "q"}},
            "D": {"handler": "QADataset", "args": [1]},
            "file": {"train_file": "x.json"},
        },
        "train": [{"name": "E", "handler": 3}, "A", {"name": "F", "args": {}}, {"name": "G"}],
        "collator": {"handler": "GenerationCollator", "arg": {}, "args": {"tokenizer": "x"}},
    }
    with pytest.raises(ConfigError, match=r"^data\.plugins: plugin_broken cannot be imported") as caught:
        read_registered(
            {"objective": {"name": "NPOO"}, "model": {"handler": "AutoModel", "args": {"mode": "base"}}}, data
        )
    broken, nowhere, *rest = caught.value.errors
    lines = broken.split("\n")
    assert lines[0] == "data.plugins: plugin_broken cannot be imported:"
    assert [line.strip() for line in lines if line.startswith("  File")] == [
        f'File "{workplace}/plugin_broken.py", line 6, in <module>',
        f'File "{workplace}/plugin_broken.py", line 4, in load',
    ]  # neither importlib's frames nor json's
    assert lines[-1].startswith("json.decoder.JSONDecodeError: Expecting property name")
    assert nowhere == (
        "data.plugins: plugin_nowhere cannot be imported:\nModuleNotFoundError: No module named 'plugin_nowhere'"
    )
    assert rest == [
        "data.collator.arg: is no key here: did you mean args?",
        "data.collator.args.tokenizer: is given by the package, not by a configuration",
        "hyperparameters.model.args.mode: AutoModel has no such argument (it takes model_mode)",
        "hyperparameters.model.args.model_mode: is required by AutoModel",
        "hyperparameters.objective: must be a registered objective (GradAscent, GradDiff, NPO, finetune) or "
        "package.module:object, got 'NPOO': did you mean NPO?",
    ]
    with pytest.raises(ConfigError, match=r"^data\.datasets\.A: must be a registered dataset") as caught:
        check_factories(data)
    among = "must be a registered dataset (QADataset) or package.module:object"
    assert list(caught.value.errors) == [
        f"data.datasets.A: {among}, got 'QADatset': did you mean QADataset?",
        "data.datasets.B.args.question_kye: QADataset has no such argument (it takes hf_args, question_key, "
        "answer_key, max_length, template_args, predict_with_generate): did you mean question_key?",
        "data.datasets.B.args.hf_args: is required by QADataset",
        "data.datasets.D.args: must be a mapping of arguments, got [1]",
        f"data.train[0]: {among}, got 3",
        f"data.train[2]: {among}, got 'F'",
    ]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("x = (", ["plugin_text.py", "SyntaxError: '(' was never closed"]),
        ("raise SystemExit(3)", ["line 1, in <module>", "SystemExit: 3"]),
        ("from model_hub_rqa import OBJECTIVES\n@OBJECTIVES.register('NPO')\ndef f(task, batch): ...", ["twice"]),
    ],
)
def test_plugins_that_fail_otherwise(text: str, shown: list[str], workplace: Path) -> None:
    """Broken syntax, a module that ends the program, and a name that is taken."""
    (workplace / "plugin_text.py").write_text(text)
    OBJECTIVES.names()
    with pytest.raises(ConfigError, match=re.escape(shown[0])) as caught:
        read_registered({}, {"plugins": ["plugin_text"]})
    assert len(caught.value.errors) == 1
    for part in shown:
        assert part in caught.value.errors[0]


OBJECT = """
import json

NUMBER = 3

def scaled(task, batch, factor: float, suffix: str = "", limit: int | None = None):
    return factor * len(batch)

class Inside:
    def __init__(self, size: "Unknown", step: int = 1): self.size = size
    class Deeper:
        pass
"""


@pytest.mark.parametrize("reference", ["plugin_object:scaled", "plugin_object.scaled"])
def test_an_object_by_its_module(reference: str, workplace: Path) -> None:
    """Nothing is registered; arguments become the types of the signature, and a reference may go into a class."""
    (workplace / "plugin_object.py").write_text(OBJECT)
    chosen = OBJECTIVES.from_config({"name": reference, "args": {"factor": 2, "suffix": "", "limit": None}}, "here")
    assert chosen.build()(None, "four") == 8.0
    assert isinstance(chosen.args["factor"], float)
    deeper = Registry("thing").from_config(reference.replace("scaled", "Inside.Deeper"), "here")
    assert type(deeper.build()).__qualname__ == "Inside.Deeper"
    unread = Registry("thing").from_config({"_target_": "plugin_object:Inside", "size": "3"}, "here")
    assert unread.build().size == "3"  # a hint that cannot be looked up says nothing
    assert "plugin_object" not in str(OBJECTIVES.names())


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ("plugin_object:scaledd", "here: plugin_object has no scaledd: did you mean scaled?"),
        ("plugin_object:NUMBER", "here: must name a function or a class, got plugin_object:NUMBER, a int"),
        ("plugin_nowhere:scaled", "here: there is no module plugin_nowhere, got plugin_nowhere:scaled"),
        ("plugin_nowhere.scaled", "here: there is no module plugin_nowhere, got plugin_nowhere.scaled"),
        ("plugin_object.sub:scaled", "here: there is no module plugin_object.sub, got plugin_object.sub:scaled"),
        ("plugin_asks:f", "here: plugin_asks cannot be imported:\n"),
        (":f", "here: must be a registered objective"),
        ({"name": "plugin_object:scaled"}, "here.args.factor: is required by plugin_object:scaled"),
        ({"_target_": "plugin_object:scaled", "factr": 1.0}, "here.factr: plugin_object:scaled has no such argument"),
        ({"name": "NPO", "args": {}, "method_args": {}}, "here.method_args: is given twice, also as args"),
        ({"name": "NPO", "method_args": {"betta": 1}}, "here.method_args.betta: NPO has no such argument"),
        ({"name": "NPO", "method_args": {"beta": -1.0}}, None),
    ],
)
def test_references_that_name_nothing(value: Any, error: str | None, workplace: Path) -> None:
    """Each is told with what it looked for; a module that fails is shown at its own lines."""
    (workplace / "plugin_object.py").write_text(OBJECT)
    (workplace / "plugin_asks.py").write_text("import not_there")
    if error is None:
        with pytest.raises(ConfigError, match=r"^here\.method_args\.gamma: must be a number >= 0, got -1"):
            OBJECTIVES.from_config({**value, "method_args": {"gamma": -1.0}}, "here").build()
        return
    with pytest.raises(ConfigError, match=f"^{re.escape(error)}") as caught:
        OBJECTIVES.from_config(value, "here")
    if "plugin_asks" in error:
        assert 'plugin_asks.py", line 1' in caught.value.errors[0]
        assert caught.value.errors[0].endswith("No module named 'not_there'")


def test_a_new_file_registers_without_another_edit(workplace: Path) -> None:
    """All modules below a built-in package are imported when a name is first looked up, and no sooner."""
    below = workplace / "plugin_package/inner"
    below.mkdir(parents=True)
    for folder in (below.parent, below):
        (folder / "__init__.py").write_text("")
    (below / "choice.py").write_text(
        "from test_registry import SHARED\n@SHARED.register('Deep')\ndef deep(): return 7\n"
    )
    registry = Registry("thing", module="plugin_package")
    sys.path.insert(0, str(workplace))
    SHARED.to = registry
    assert "plugin_package" not in sys.modules
    assert registry.from_config("Deep", "here").build() == 7

    def other() -> None: ...

    with pytest.raises(ConfigError, match=r"'Deep' is registered twice, by plugin_package\.inner\.choice\.deep"):
        registry.register("Deep")(other)


def test_a_user_cannot_take_a_built_in_name_first(workplace: Path) -> None:
    """Whoever registers before a name was looked up is told, and not the package."""
    (workplace / "plugin_package.py").write_text(
        "from test_registry import SHARED\n@SHARED.register('A')\ndef deep(): ..."
    )
    sys.path.insert(0, str(workplace))
    registry = SHARED.to = Registry("thing", module="plugin_package")

    def mine() -> None: ...

    with pytest.raises(ConfigError, match=r"'A' is registered twice, by plugin_package\.deep and by .*mine$"):
        registry.register("A")(mine)


class _Shared:
    to: Registry

    def register(self, name: str) -> Any:
        return self.to.register(name)


SHARED = _Shared()
"""What modules that a test writes register in."""


def test_injected_arguments(things: Registry) -> None:
    """They reach a factory that takes them; None only where it has no default."""
    chosen = things.from_config({"name": "Pair", "args": {"left": 1}}, "here")
    assert chosen.build(tokenizer="t", config="not taken") == (1, 2, "t")
    things.register("Needs")(lambda tokenizer: [tokenizer])
    assert things.from_config("Needs", "here").build(tokenizer=None) == [None]

    @things.register("Default")
    def default(tokenizer: str = "own", size: int = 1) -> str:
        if size < 1:
            raise ValueError(f"size must be >= 1, got {size}")
        return tokenizer

    assert things.from_config("Default", "here").build(tokenizer=None) == "own"
    with pytest.raises(ConfigError, match=r"^here: size must be >= 1, got 0$"):
        things.from_config({"name": "Default", "args": {"size": 0}}, "here").build()


@pytest.mark.parametrize("objective", [3, {}, {"args": {}}, {"name": "NPO", "handler": "NPO"}])
def test_forms_that_choose_nothing(objective: Any) -> None:
    """A choice is a name, or a mapping with one."""
    with pytest.raises(ConfigError, match=r"hyperparameters\.objective(: must be a name|\.name: is given twice)"):
        read_registered({"objective": objective}, {})


@pytest.mark.parametrize("plugins", ["plugin_good", [3], {"a": 1}])
def test_plugins_are_a_list_of_names(plugins: Any) -> None:
    """Anything else is said to be none."""
    with pytest.raises(ConfigError, match=r"data\.plugins: must be a list of modules, got"):
        read_registered({}, {"plugins": plugins})
