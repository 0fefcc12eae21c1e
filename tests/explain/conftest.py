"""A run of which one class is unknown to the masks."""

import json
import shutil
from pathlib import Path

import pytest

from xpruner.run.finished import UNSEEN, FinishedRun, open_run


@pytest.fixture
def run_without_3(finished_folder: Path, tmp_path: Path) -> FinishedRun:
    """A run whose masks have seen no image of class 3."""
    folder = tmp_path / "run"
    shutil.copytree(finished_folder, folder)
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["search"][UNSEEN] = [3]
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return open_run(folder)
