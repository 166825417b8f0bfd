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


# Private names of other libraries that a part of the package uses, and why.
OTHERS_PRIVATE = {
    ("data", "_fingerprint"): "datasets has no public one",
    ("trials", "_fingerprint"): "datasets has no public one",
    ("tasks", "_fingerprint"): "datasets has no public one",
    ("models", "_attn_implementation"): "transformers' config says by it which attention is computed",
    ("tasks", "_attn_implementation"): "transformers' config says by it which attention is computed",
    ("tasks", "_from_config"): "transformers' models have it, and their Auto classes the public one",
    ("tasks", "_replace"): "of a NamedTuple",
    ("data", "_exit"): "os",
}
BY_STRING = {"getattr", "setattr", "hasattr", "delattr", "getattr_static", "attrgetter", "methodcaller"}
BY_STRING |= {"__getattribute__", "__getattr__", "__setattr__", "__delattr__"}


def private_part(dotted: object) -> str:
    """The first private name of a dotted string; "" where there is none."""
    parts = dotted.split(".") if isinstance(dotted, str) else []
    return next((part for part in parts if part.startswith("_") and not part.startswith("__")), "")


def asked(node: ast.AST) -> list[tuple[str, str]]:
    """Pairs of an object and a private name that one node of a syntax tree asks of it."""
    if isinstance(node, ast.Attribute):
        return [(ast.unparse(node.value), private_part(node.attr))]
    if isinstance(node, ast.Import):
        return [("determined", private_part(alias.name)) for alias in node.names if is_determined(alias.name)]
    if isinstance(node, ast.ImportFrom) and is_determined(node.module):
        return [("determined", private_part(f"{node.module}.{alias.name}")) for alias in node.names]
    if isinstance(node, ast.Constant) and is_determined(node.value):  # importlib, mock
        return [("determined", private_part(node.value))]
    if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in BY_STRING:
        owner = ast.unparse(node.args[0]) if node.args else ""
        return [(owner, private_part(getattr(argument, "value", ""))) for argument in node.args]
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        owner = ast.unparse(node.value)
        if owner.startswith("vars(") or owner.endswith(".__dict__"):
            return [(owner, private_part(node.slice.value))]
    return []


def is_determined(name: object) -> bool:
    return isinstance(name, str) and name.partition(".")[0] == "determined"


def private_names(path: Path) -> list[str]:
    """Every private name that a file asks of an object that is not its own, as ``object._name``, with its line."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        pairs = [(owner, name) for owner, name in asked(node) if name and owner not in ("self", "cls")]
        found += [f"{getattr(node, 'lineno', 0)}: {owner}.{name}" for owner, name in pairs]
    return found


def own_names(tree: ast.AST) -> tuple[set[str], set[str]]:
    """Private names that a file reads of ``self`` or ``cls``, and those that it gives to an object or a class."""
    read, given = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("self", "cls"):
            (read if isinstance(node.ctx, ast.Load) else given).add(node.attr)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given.add(node.name)
        elif isinstance(node, ast.ClassDef):
            targets = [getattr(line, "targets", [getattr(line, "target", None)]) for line in node.body]
            given |= {target.id for line in targets for target in line if isinstance(target, ast.Name)}
    return {name for name in read if private_part(name)}, given


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("from determined.pytorch import _trainer", ["1: determined._trainer"]),
        ("from determined.pytorch._trainer import init as start", ["1: determined._trainer"]),
        ("import determined.pytorch._trainer as trainer", ["1: determined._trainer"]),
        ("importlib.import_module('determined._info')", ["1: determined._info"]),
        ("info.trial._debug", ["1: info.trial._debug"]),
        ("self.context._core", ["1: self.context._core"]),
        ("getattr(context, '_core')", ["1: context._core"]),
        ("inspect.getattr_static(context, '_core')", ["1: context._core"]),
        ("object.__setattr__(context, '_core', None)", ["1: context._core"]),
        ("operator.attrgetter('distributed._core')(context)", ["1: 'distributed._core'._core"]),
        ("vars(context)['_core']", ["1: vars(context)._core"]),
        ("context.__dict__['_core']", ["1: context.__dict__._core"]),
        ("self._mine", []),
        ("getattr(self, '_mine')", []),
        ("x.__doc__", []),
        ("import _thread", []),
        ("values['_name']", []),
    ],
)
def test_private_names_are_found(tmp_path: Path, line: str, expected: list[str]) -> None:
    """Attributes, strings and imports; not one's own."""
    path = tmp_path / "module.py"
    path.write_text(line + "\n")
    assert private_names(path) == expected


@pytest.mark.parametrize(
    ("part", "path"),
    [(part, path) for part, path in modules() if part != "runtime"],
    ids=lambda value: str(getattr(value, "stem", value)),
)
def test_only_runtime_reaches_into_determined(part: str, path: Path) -> None:
    """Private names of Determined are used in runtime/ alone; other libraries' are few, each with its reason."""
    assert [name for name in private_names(path) if (part, name.rpartition(".")[2]) not in OTHERS_PRIVATE] == []


def test_every_exception_is_used() -> None:
    """A private name that is no longer used leaves the list."""
    used = {(part, name.rpartition(".")[2]) for part, path in modules() for name in private_names(path)}
    assert set(OTHERS_PRIVATE) - used == set()


def test_private_names_of_self_are_our_own() -> None:
    """A class that derives from one of Determined's reads no private name that it inherits from there."""
    names = [own_names(ast.parse(path.read_text())) for part, path in modules() if part in ("trials", "train")]
    inherited = set().union(*(read for read, _ in names)) - set().union(*(given for _, given in names))
    assert inherited == set()


def test_no_two_public_classes_have_one_name() -> None:
    """A name in an error, a page or a configuration says which class is meant."""
    defined: dict[str, list[str]] = {}
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                defined.setdefault(node.name, []).append(path.relative_to(ROOT).as_posix())
    assert {name: files for name, files in defined.items() if len(files) > 1} == {}
