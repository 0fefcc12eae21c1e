"""A package that adds a method and an adapter: examples/plugin, as if it were installed."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib")  # of Python 3.11

PLUGIN = Path(__file__).parents[1] / "examples" / "plugin"
TINY = "{patch_size: 4, embed_dim: 24, depth: 2, num_heads: 3}"
RUN = [
    "--model.name", "linear_vit_tiny", "--model.img_size", "16", "--model.kwargs", TINY,
    "--data.name", "digits", "--data.train_size", "160", "--data.test_size", "60", "--data.calibration_size", "64",
    "--finetune.steps", "2", "--precision", "fp32", "--latency", "[]",
]  # fmt: skip

Run = Callable[..., subprocess.CompletedProcess]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs Python where the package's metadata lie on the path beside its source, as an installer leaves them."""
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]
    info = tmp_path / "site" / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = project["entry-points"].items()
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in entries.items()) for group, entries in groups]
    (info / "entry_points.txt").write_text("\n".join(lines))
    path = os.pathsep.join([str(info.parent), str(PLUGIN / "src"), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}

    def run(*arguments: str, cwd: Path = tmp_path) -> subprocess.CompletedProcess:
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)

    return run


def test_its_method_is_listed_and_its_module_is_pruned_by_the_command_line(run, tmp_path):
    listed = run("-c", "import xpruner; print(xpruner.list_methods())")
    assert "'reader_norm'" in listed.stdout, listed.stderr
    prune = ["-m", "xpruner", "prune", "--method", "reader_norm", *RUN, "--output", "run"]
    pruned = run(*prune, "--search.options", '{"order": 1.0}')
    assert pruned.returncode == 0, pruned.stderr
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert plan["method"] == "reader_norm, global" and "blocks.0.attn:head" in plan["keep"]
    assert plan["cost"]["macs_pruned"] == pytest.approx(0.5 * plan["cost"]["macs_dense"], rel=0.05)


def test_an_option_that_its_method_does_not_have_is_refused_before_anything_is_computed(run):
    refused = run("-m", "xpruner", "prune", "--method", "reader_norm", *RUN, "--search.options", '{"rate": 0.1}')
    assert refused.returncode == 2
    assert "Unknown option 'search.options.rate'; did you mean 'search.options.order'?" in refused.stderr


def test_its_own_tests_pass(run, tmp_path):
    cache = f"cache_dir={tmp_path / 'cache'}"
    tested = run("-m", "pytest", "-q", "-p", "xpruner.testing", "-o", cache, cwd=PLUGIN)
    assert tested.returncode == 0, tested.stdout
    assert "16 passed" in tested.stdout
