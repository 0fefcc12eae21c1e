from pathlib import Path

import pytest

from xpruner.explain.finished import FinishedRun, open_run


@pytest.fixture
def finished(finished_folder: Path) -> FinishedRun:
    return open_run(finished_folder)
