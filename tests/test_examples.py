"""The examples run from top to bottom, as a user runs them, and use public names alone."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import xpruner

FOLDER = Path(__file__).parents[1] / "examples"
EXAMPLES = sorted(FOLDER.glob("[0-9]*.py"))
LONGEST = 60
"""Lines."""

each_example = pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)


def test_there_are_six():
    assert [path.name[:2] for path in EXAMPLES] == ["01", "02", "03", "04", "05", "06"]


@each_example
def test_it_is_short_and_has_cells(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) < LONGEST
    assert sum(line.startswith("# %% ") for line in lines) >= 3


def modules(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yields the modules of xpruner that a file imports from, and the names."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names if alias.name.startswith("xpruner"))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("xpruner"):
            yield node.module, [alias.name for alias in node.names]


@each_example
def test_it_uses_public_names_alone(path):
    for module, names in modules(path):
        assert re.fullmatch(r"xpruner(\.[a-z]+)?", module), f"{module} is not public"
        package = __import__(module, fromlist=["__all__"])
        assert {*names} <= {*package.__all__}
    used = set(re.findall(r"\bxpruner\.([A-Za-z_]+)", path.read_text(encoding="utf-8")))
    assert used <= {*xpruner.__all__, "explain"}


Run = Callable[[str], str]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """Runs the example of a number in a folder that all share, and returns what it prints."""
    folder = tmp_path_factory.mktemp("examples")
    outputs: dict[str, str] = {}

    def run(number: str) -> str:
        if number not in outputs:
            (path,) = (path for path in EXAMPLES if path.name.startswith(number))
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run([sys.executable, path], cwd=folder, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            outputs[number] = done.stdout
        return outputs[number]

    run("01")
    return run


def percent(pattern: str, text: str) -> float:
    """Returns the share behind a pattern, from 0 to 1."""
    return float(re.search(rf"{pattern}(\d+\.\d) ?%", text)[1]) / 100


def test_the_first_prune_meets_its_budget(run):
    text = run("01")
    assert percent("dense +top-1 ", text) > 0.7 and percent("finetuned +top-1 ", text) > 0.7
    dense, pruned = (float(found) for found in re.findall(r"(?:dense|finetuned) .* (\d+\.\d+) M MACs", text))
    assert pruned == pytest.approx(dense / 2, rel=0.01)


def test_images_of_a_folder_are_pruned_on(run):
    text = run("02")
    assert "480 training images, 120 test images of classes 0, 1, 2, 3, 4, 5, 6, 7, 8, 9" in text
    assert percent("compensated +top-1 ", text) > 0.6


def test_scores_of_ones_own_become_a_plan_and_cutting_is_exact(run):
    text = run("03")
    assert percent(r"MACs .* \(", text) == pytest.approx(0.6, abs=0.006)
    assert float(re.search(r"gated model differ by (\S+)", text)[1]) < 1e-4


def test_a_run_says_why_a_unit_was_pruned(run):
    text = run("04")
    assert "blocks.1.mlp:hidden: 10 classes by 256 units" in text
    assert "Kept: importance" in text and "Pruned: importance" in text
    assert re.search(r"all classes lost -?\d+\.\d points of top-1", text)


def test_three_classes_are_left(run):
    text = run("05")
    dense, pruned = (
        float(found.replace(",", ""))
        for found in re.findall(r"(?:dense|compensated) .* among 1, 4, 7, ([\d,]+) MACs", text)
    )
    assert pruned == pytest.approx(0.3 * dense, rel=0.01)


def test_a_method_of_ones_own_beats_chance(run):
    text = run("06")
    assert f"one of {len(xpruner.list_methods()) + 1} methods" in text
    assert percent("output_energy .*cut, ", text) > percent("random .*cut, ", text) - 0.05
