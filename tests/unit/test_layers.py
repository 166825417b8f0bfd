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


def test_only_the_fixes_reach_into_determined() -> None:
    """Private names of Determined are used in the modules that bear its name (runtime/determined_*.py) alone."""
    for part, path in modules():
        if part not in MAY_IMPORT_DETERMINED or path.name.startswith("determined_"):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        owners = {"context", "pytorch", "core", "det", "trainer"}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                owner = node.value
                name = owner.id if isinstance(owner, ast.Name) else getattr(owner, "attr", "")
                assert name not in owners, f"{path.name}: {name}.{node.attr}"
