"""The layering rule: imports point downwards only, and Determined stays where it belongs."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "model_hub_rqa"

# The layer of each module or folder of the package; a new one has to be given its place here.
LAYERS = {
    "errors": 0,
    "libraries": 0,
    "records": 0,
    "progress": 0,
    "checkpoints": 1,
    "config": 1,
    "registry": 1,
    "utils": 1,
    "metrics": 1,
    "data": 2,
    "models": 2,
    "objectives": 2,
    "retrieval": 2,
    "runtime": 2,
    "tasks": 3,
    "readers": 4,
    "pipeline": 5,
    "trials": 4,
    "evaluation": 6,
    "train": 7,
    "cli": 7,
    "commands": 7,
}
MAY_IMPORT_DETERMINED = {"runtime", "trials", "train"}
FORBIDDEN = {part: {"trials", "runtime"} for part in ("tasks", "readers", "pipeline", "evaluation")}


def modules() -> list[tuple[str, Path]]:
    files = [path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py"]
    return [(path.relative_to(ROOT).with_suffix("").parts[0], path) for path in sorted(files)]


def imports(path: Path) -> set[str]:
    """Dotted names of everything that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize(("part", "path"), modules(), ids=lambda value: str(getattr(value, "stem", value)))
def test_imports_point_downwards(part: str, path: Path) -> None:
    """A module imports only from its own part of the package, from lower layers, or from named neighbours."""
    assert part in LAYERS, f"give {part} its layer in this test"
    for name in imports(path):
        words = name.split(".")
        if words[0] == "determined":
            assert part in MAY_IMPORT_DETERMINED, f"{path.name} imports {name}"
        if words[0] != "model_hub_rqa" or len(words) < 2 or words[1] not in LAYERS:
            continue
        assert words[1] not in FORBIDDEN.get(part, ()), f"{path.name} imports {name}"
        assert LAYERS[words[1]] <= LAYERS[part], f"{path.name} (layer {LAYERS[part]}) imports {name}"


def test_every_module_of_the_package_exists() -> None:
    """The table of layers names no module that is gone."""
    assert {part for part, _ in modules()} == set(LAYERS)


OTHERS_PRIVATE = {
    "_fingerprint": "datasets has no public one",
    "_attn_implementation": "transformers' config says by it which attention is computed",
    "_from_config": "transformers' models have it, and their Auto classes the public one",
    "_replace": "of a NamedTuple",
    "_exit": "os",
}


def private_names(path: Path) -> list[str]:
    """Every private name that a file asks of an object that is not its own, as ``object._name``, with its line."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        name = owner = ""
        if isinstance(node, ast.Attribute):
            name, owner = node.attr, ast.unparse(node.value)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr", "delattr"):
            second = node.args[1] if len(node.args) > 1 else None
            name = str(second.value) if isinstance(second, ast.Constant) else ""
            owner = ast.unparse(node.args[0])
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "determined":
            parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            name, owner = next((part for part in parts if part.startswith("_")), ""), "determined"
        if name.startswith("_") and not name.startswith("__") and owner not in ("self", "cls"):
            found.append(f"{node.lineno}: {owner}.{name}")
    return found


def test_private_names_are_found(tmp_path: Path) -> None:
    """Attributes, strings and imports; not one's own."""
    path = tmp_path / "module.py"
    path.write_text(
        "from determined.pytorch import _trainer\nself._mine\ninfo.trial._debug\ngetattr(context, '_core')\nx.__doc__\n"
    )
    expected = ["1: determined._trainer", "3: info.trial._debug", "4: context._core"]
    assert sorted(private_names(path)) == expected


@pytest.mark.parametrize(("part", "path"), modules(), ids=lambda value: str(getattr(value, "stem", value)))
def test_only_runtime_reaches_into_determined(part: str, path: Path) -> None:
    """Private names of Determined are used in runtime/ alone; other libraries' are few, each with its reason."""
    if part != "runtime":
        assert [name for name in private_names(path) if name.rpartition(".")[2] not in OTHERS_PRIVATE] == []
