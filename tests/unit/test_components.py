"""Registered components: names, arguments, plugins, and every fault at once before a model is loaded."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from model_hub_rqa.errors import ConfigError
from model_hub_rqa.registry import COLLATORS, DATASETS, MODELS, OBJECTIVES, Registry, read_components


@pytest.fixture
def things() -> Registry:
    registry = Registry("thing", offered=["tokenizer"])

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
    kept = [(registry, dict(registry._handlers)) for registry in (MODELS, DATASETS, COLLATORS, OBJECTIVES)]
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("plugin_"):
            del sys.modules[name]
    for registry, handlers in kept:
        registry._handlers.clear()
        registry._handlers.update(handlers)


@pytest.mark.parametrize(
    ("name", "args", "faults"),
    [
        ("Pair", {"left": 1}, []),
        ("Pair", {"left": 1, "right": 3}, []),
        (
            "Pair",
            {"lfet": 1, "left": 1},
            ["lfet: Pair has no such argument (it takes left, right): did you mean left?"],
        ),
        ("Pair", {"right": 3}, ["left: is required by Pair"]),
        ("Pair", {"left": 1, "tokenizer": "t"}, ["tokenizer: is given by the trial, not by a configuration"]),
        ("Any", {"whatever": 1}, []),
    ],
)
def test_arguments_are_held_to_the_signature(
    name: str, args: dict[str, Any], faults: list[str], things: Registry
) -> None:
    """What a handler does not take, and what it needs and is not given, is found without calling it."""
    assert things.argument_faults(name, args) == faults


def test_a_function_of_leading_parameters_is_given_the_rest() -> None:
    """Those that come with each call are neither required of a configuration nor taken from one."""
    registry = Registry("rule", leading=2)
    registry.register("rule")(lambda task, batch, weight=1.0: None)
    assert registry.argument_faults("rule", {"weight": 2}) == []
    assert registry.argument_faults("rule", {"batch": 2}) == ["batch: rule has no such argument (it takes weight)"]


def test_a_name_is_one_handlers(things: Registry) -> None:
    """Another handler of the name is refused; the same one, imported again, replaces itself."""

    def other() -> None: ...

    with pytest.raises(ConfigError, match=r"the thing 'Pair' is registered twice, by .*pair and by .*other"):
        things.register("Pair")(other)
    things.register("Other")(other)
    again = type(other)(other.__code__, other.__globals__, "other")
    again.__qualname__ = other.__qualname__
    assert things.register("Other")(again) is again
    assert things.handler("Other") is again


def test_an_unregistered_name_comes_with_the_nearest_and_the_list(things: Registry) -> None:
    """So does a name that is no text."""
    with pytest.raises(ValueError, match=r"must be a registered thing \(Any, Pair\), got 'Piar': did you mean Pair\?"):
        things.handler("Piar")
    with pytest.raises(ValueError, match=r"must be a registered thing \(Any, Pair\), got 3$"):
        things.handler(3)
    with pytest.raises(ValueError, match=r"must be a registered spoon \(there is none\), got 'Pair'"):
        Registry("spoon").handler("Pair")


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
    chosen = read_components(
        {"objective": {"name": "Scaled", "args": {"factor": 3.0}}, "model": {"_target_": "x.y"}},
        {
            "plugins": ["plugin_good"],
            "collator": {"handler": "Count", "args": {"step": 2}},
            "datasets": {"TOFU": {"handler": "QADataset", "args": {"hf_args": {"path": "json"}}}, "file": {}},
        },
    )
    assert chosen.model is None
    assert chosen.objective is not None
    assert chosen.objective.build()(type("T", (), {"loss": staticmethod(len)}), "four") == 12
    assert chosen.collator is not None
    assert chosen.collator.build(pad_to_multiple_of=8, tokenizer="not taken").step == (2, 8)
    assert read_components({"objective": "finetune"}, {}).objective is not None


def test_every_fault_at_once(workplace: Path) -> None:
    """A plugin that does not import, unregistered names, arguments that are not taken, wrong forms."""
    (workplace / "plugin_broken.py").write_text("import json\n\ndef load():\n    return json.loads('{')\n\nload()\n")
    with pytest.raises(ConfigError, match=r"^data\.plugins: plugin_broken cannot be imported") as caught:
        read_components(
            {"objective": {"name": "NPOO"}, "model": {"handler": "AutoModel", "args": {"mode": "base"}}},
            {
                "plugins": ["plugin_broken", "plugin_nowhere"],
                "datasets": {
                    "A": {"handler": "QADatset"},
                    "B": {"handler": "QADataset", "args": {"question_kye": "q"}},
                    "D": {"handler": "QADataset", "args": [1]},
                },
                "train": [{"name": "E", "handler": 3}, "A", {"name": "F", "args": {}}],
                "collator": {"handler": "GenerationCollator", "arg": {}, "args": {"tokenizer": "x"}},
            },
        )
    broken, nowhere, *rest = caught.value.problems
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
        "data.collator.args.tokenizer: is given by the trial, not by a configuration",
        "hyperparameters.model.args.mode: AutoModel has no such argument (it takes model_mode)",
        "hyperparameters.model.args.model_mode: is required by AutoModel",
        "hyperparameters.objective: must be a registered objective (GradAscent, GradDiff, NPO, finetune), "
        "got 'NPOO': did you mean NPO?",
        "data.datasets.A: must be a registered dataset (QADataset), got 'QADatset': did you mean QADataset?",
        "data.datasets.B.args.question_kye: QADataset has no such argument (it takes hf_args, question_key, "
        "answer_key, max_length, template_args, predict_with_generate): did you mean question_key?",
        "data.datasets.B.args.hf_args: is required by QADataset",
        "data.datasets.D.args: must be a mapping of arguments, got [1]",
        "data.train[0]: must be a registered dataset (QADataset), got 3",
        "data.train[2]: must be a registered dataset (QADataset), got null",
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
        read_components({}, {"plugins": ["plugin_text"]})
    assert len(caught.value.problems) == 1
    for part in shown:
        assert part in caught.value.problems[0]


@pytest.mark.parametrize("objective", [3, {}, {"args": {}}, {"name": "NPO", "handler": "NPO"}])
def test_forms_that_choose_nothing(objective: Any) -> None:
    """A choice is a name, or a mapping with one."""
    with pytest.raises(ConfigError, match=r"hyperparameters\.objective(: must be a name|\.name: is given twice)"):
        read_components({"objective": objective}, {})


@pytest.mark.parametrize("plugins", ["plugin_good", [3], {"a": 1}])
def test_plugins_are_a_list_of_names(plugins: Any) -> None:
    """Anything else is said to be none."""
    with pytest.raises(ConfigError, match=r"data\.plugins: must be a list of modules, got"):
        read_components({}, {"plugins": plugins})
