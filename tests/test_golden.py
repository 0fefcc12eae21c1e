"""Tiny runs of everything come to what they came to before, on whatever machine."""

import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

import golden

COMMITTED = Path(__file__).parent / "golden" / "golden.json"
TOLERANCE = 0.05
"""Of accuracy on a hundred images: other processors round otherwise, and training carries it on."""


@pytest.mark.slow
def test_tiny_runs_keep_the_same_units_and_reach_the_same_figures(tmp_path):
    before, now = json.loads(COMMITTED.read_text()), golden.golden(tmp_path)
    assert now.keys() == before.keys()
    for name, run in before.items():
        assert now[name].get("keep") == run.get("keep"), name
        for figure, value in run.get("figures", {}).items():
            tolerance = TOLERANCE if figure.endswith(("top1", "agreement")) else 0
            assert now[name]["figures"][figure] == pytest.approx(value, abs=tolerance), (name, figure)
