"""The house has floors: a folder imports from those below it alone, lazily or for types alike."""

import ast
from collections.abc import Iterator
from pathlib import Path

import xpruner

SOURCE = Path(xpruner.__file__).parent

FLOORS = [
    {"errors", "_lazy", "_torchvision", "text"},
    {"files", "registry"},
    {"config"},
    {"runtime"},
    {"measure"},
    {"data"},
    {"units"},
    {"plan"},
    {"surgery"},
    {"models"},
    {"calibration"},
    {"compensation"},
    {"training"},
    {"maps"},
    {"masks"},
    {"thresholds"},
    {"methods"},
    {"run"},
    {"explain", "compare", "testing"},
    {"report", "explore"},
    {"api"},
    {"cli"},
    {"__init__", "__main__"},
]
"""Folders and modules at the root of the package; what stands lower is imported by what stands higher."""
HEIGHT = {name: height for height, names in enumerate(FLOORS) for name in names}


def imported(path: Path) -> Iterator[str]:
    """Yields the folder or module at the root that each import of a file names; the bare package is the version's."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            modules = [f"xpruner.{each.name}" for each in node.names] if node.module == "xpruner" else [node.module]
        for module in modules:
            package, *rest = module.split(".")
            if package == "xpruner" and rest and rest[0] != "__version__":
                yield rest[0] if rest[0] in HEIGHT else "__init__"


def test_every_folder_has_its_floor():
    assert {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()} == {
        *HEIGHT
    }


def test_nothing_imports_what_stands_on_it_or_beside_it():
    against = []
    for path in SOURCE.rglob("*.py"):
        home = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        against += [
            f"{path.relative_to(SOURCE)}: {to}" for to in imported(path) if to != home and HEIGHT[to] >= HEIGHT[home]
        ]
    assert not against


def test_the_root_holds_ten_modules_at_most():
    assert len(list(SOURCE.glob("*.py"))) <= 10
