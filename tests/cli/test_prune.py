"""``xpruner prune``: a whole run on tiny images, what it prints, and how it goes on."""

import json
import subprocess
from pathlib import Path

import pytest
from cli_process import xpruner

from xpruner.cli import main
from xpruner.cli.console import show
from xpruner.cli.tables import slower, stages_table

pytestmark = pytest.mark.integration

SHORT = [
    *("--finetune.epochs", "1", "--data.batch_size", "8", "--rounds", "1", "--masks.steps", "2"),
    *("--thresholds.steps", "2", "--precision", "fp32", "--latency", "[1]"),
]


def flags(model: Path, data: Path, output: Path) -> list[str]:
    return ["prune", "--model", str(model), "--data", str(data), "--output", str(output), *SHORT]


@pytest.fixture(scope="module")
def pruned(says_dark, images, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    done = xpruner(*flags(says_dark, images, folder), "--budget", "0.7")
    assert done.returncode == 0, done.stderr
    return folder, done


def test_a_run_leaves_its_files_and_lists_them(pruned):
    folder, done = pruned
    names = ["pruned", "plan.json", "masks.safetensors", "metrics.json", "config.yaml", "log.txt"]
    assert [name for name in names if not (folder / name).exists()] == []
    assert done.stdout.splitlines()[-1] == f"Files in {folder}: {', '.join(names)}"


def test_the_table_shows_the_figures_of_the_run(pruned):
    folder, done = pruned
    metrics = json.loads((folder / "metrics.json").read_text())
    rows = {words[0]: words[1:] for words in (line.split() for line in done.stdout.splitlines()) if words}
    assert rows["dense"][:2] == ["75.00", f"{metrics['dense']['macs'] / 1e6:.3f}"]
    for title, stage in (("pruned", "pruned"), ("compensated", "compensated"), ("fine-tuned", "finetuned")):
        share = 100 * metrics[stage]["macs"] / metrics["dense"]["macs"]
        top1 = f"{100 * metrics[stage]['top1']:.2f}"
        assert rows[title][:3] == [top1, f"{metrics[stage]['macs'] / 1e6:.3f}", f"({share:.1f}"]
        assert 68 < share <= 70


def test_the_log_is_shown_on_stderr(pruned):
    assert "Warning" not in pruned[1].stderr  # of any library
    stages = [line.split(" ", 1)[1] for line in pruned[1].stderr.splitlines()]
    order = ["dense", "search", "pruned", "compensated", "finetuned", "latency", "environment"]
    assert [stage for stage in stages if stage in order] == order


def test_what_is_finished_is_taken_and_the_runs_own_file_is_its_configuration(pruned, capsys):
    folder, done = pruned
    assert main(["prune", "--config", str(folder / "config.yaml"), "--output", str(folder)]) == 0
    again = capsys.readouterr()
    assert again.err.count("finished before") == 7
    assert again.out == done.stdout


def test_a_run_with_another_configuration_is_refused_in_its_directory(pruned, capsys):
    folder = pruned[0]
    assert main(["prune", "--config", str(folder / "config.yaml"), "--output", str(folder), "--seed", "7"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"xpruner: error: {folder} belongs to a run with seed 0, not 7;")


@pytest.mark.parametrize(
    ("budget", "said"),
    [("half", "The budget 'half' is out of range;"), ("0.01", "The budget of 0.01 macs is out of reach:")],
)
def test_a_bad_budget_is_refused_before_anything_is_computed(budget, said, says_dark, images, tmp_path, capsys):
    assert main([*flags(says_dark, images, tmp_path / "run"), "--budget", budget]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert [line for line in err.splitlines() if "budget" in line] == err.splitlines()[-1:]
    assert err.splitlines()[-1].startswith(f"xpruner: error: {said}")
    assert not (tmp_path / "run" / "metrics.json").exists()


def stage(top1: float, macs: float, params: float) -> dict[str, float]:
    return {"top1": top1, "macs": macs, "params": params}


METRICS = {
    "dense": stage(0.9, 4e6, 2e6),
    "pruned": stage(0.1, 2e6, 1e6),
    "compensated": stage(0.5, 2e6, 1e6),
    "finetuned": stage(0.8765, 2e6, 1e6),
    "latency": {"dense": {"1": 3.0, "8": 10.0, "32": 40.0}, "pruned": {"1": 4.0, "8": 10.0, "32": 20.0}},
}


def test_the_table_of_stages(capsys):
    show(stages_table(METRICS))
    title, _, *rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert title == "top-1 % MACs (M) parameters (M) ms at batch 1 ms at batch 8 ms at batch 32"
    assert rows == [
        "dense 90.00 4.000 (100.0 %) 2.000 (100.0 %) 3.00 10.00 40.00",
        "pruned 10.00 2.000 (50.0 %) 1.000 (50.0 %)",
        "compensated 50.00 2.000 (50.0 %) 1.000 (50.0 %)",
        "fine-tuned 87.65 2.000 (50.0 %) 1.000 (50.0 %) 4.00 (0.75×) 10.00 (1.00×) 20.00 (2.00×)",
    ]


def test_where_pruning_did_not_help_a_sentence_names_it():
    assert slower(METRICS) == "The pruned model is not faster than the dense one at batch size 1 and 8."
    assert slower({**METRICS, "latency": {"dense": {"1": 3.0}, "pruned": {"1": 2.0}}}) is None
    assert slower({"dense": METRICS["dense"]}) is None
