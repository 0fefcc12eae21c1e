"""A whole comparison by the command line: what it leaves, that it goes on after a kill, and what it refuses."""

import json
import signal
from pathlib import Path

import pytest
from compare_and_die import compare
from processes import exit_code
from safetensors.torch import load_file, save_file
from tiny_comparison import write_comparison

from xpruner import compare as package
from xpruner.cli import main
from xpruner.compare import read_study
from xpruner.compare.results import begin
from xpruner.config import RunConfig
from xpruner.errors import UsageError
from xpruner.run import folder as runs
from xpruner.run.locks import claimed

ENTRIES = {
    "X-Pruner": {"method": "xpruner", "units": ["head", "hidden", "qk", "v"]},
    "L2, block": {"method": "l2", "search": {"allocation": "block"}},
    "dense": {"method": "dense"},
}


def results(folder: Path) -> dict[str, dict]:
    return {path.stem: json.loads(path.read_text()) for path in (folder / "results").glob("*.json")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert main(["compare", "--config", str(write_comparison(folder, ENTRIES))]) == 0
    return folder


def test_one_result_a_run_with_every_stage(whole):
    found = results(whole)
    assert set(found) == {"x_pruner-0.5-short-seed0", "l2_block-0.5-short-seed0", "dense-0.5-short-seed0"}
    stages = found["l2_block-0.5-short-seed0"]["stages"]
    assert list(stages) == ["dense", "search", "cut", "compensated", "finetuned"]
    assert set(stages["cut"]) == {"top1", "agreement", "macs", "params"}
    assert stages["search"].keys() == {"seconds", "cpu_seconds", "peak_mb"}
    assert list(found["dense-0.5-short-seed0"]["stages"]) == ["dense", "finetuned"]
    assert not [path for path in (whole / "work").iterdir() if path.is_dir()]  # the state of finished runs is gone


def test_the_budget_is_met_by_torchs_counter(whole):
    for name, result in results(whole).items():
        stages = result["stages"]
        asked = 1.0 if name.startswith("dense") else 0.5
        assert abs(stages["finetuned"]["macs"] / stages["dense"]["macs"] / asked - 1) <= 0.01


def test_the_dense_model_agrees_with_itself(whole):
    assert results(whole)["dense-0.5-short-seed0"]["stages"]["dense"]["agreement"] == 1.0


def test_a_finished_comparison_computes_nothing_again(whole):
    before = {path: path.stat().st_mtime_ns for path in (whole / "results").glob("*.json")}
    assert main(["compare", "--config", str(whole / "comparison.yaml")]) == 0
    assert {path: path.stat().st_mtime_ns for path in (whole / "results").glob("*.json")} == before


def test_a_study_runs_from_python_with_public_names_alone(whole):
    study = package.read_study(str(whole / "comparison.yaml"))
    trials = study.trials()
    package.run_study(study, trials, "by hand")
    rows = package.rows_of(package.read_results(Path(study.config.output)))
    assert sorted(row.label for row in rows) == sorted(trial.label for trial in trials) == sorted(ENTRIES)
    assert [name for name in package.__all__ if getattr(package, name).__name__ != name] == []


def test_a_run_that_another_process_does_is_passed_over(whole, tmp_path):
    path = write_comparison(tmp_path, {"L2": {"method": "l2"}, "L1": {"method": "l1"}}, length="untrained")
    with claimed(tmp_path / "work" / "l2-0.5-untrained-seed0.lock") as mine:
        assert mine
        assert main(["compare", "--config", str(path)]) == 0
    assert set(results(tmp_path)) == {"l1-0.5-untrained-seed0"}


@pytest.mark.integration
def test_it_continues_after_a_kill(whole, tmp_path):
    """Killed in its second run, between two states: no more than the rest is done, and the end is the same."""
    path = str(write_comparison(tmp_path, {label: ENTRIES[label] for label in ("L2, block", "X-Pruner")}))
    updates = tmp_path / "updates"
    assert exit_code(compare, path, updates, 11) == -signal.SIGKILL
    assert updates.read_text().split() == [*"12345612345"]
    assert set(results(tmp_path)) == {"l2_block-0.5-short-seed0"}
    assert exit_code(compare, path, updates) == 0
    assert updates.read_text().split() == ["5", "6"]
    ours, theirs = results(tmp_path), results(whole)
    assert set(ours) == {"l2_block-0.5-short-seed0", "x_pruner-0.5-short-seed0"}
    assert ours["x_pruner-0.5-short-seed0"]["resumed"] and not ours["l2_block-0.5-short-seed0"]["resumed"]
    for name in ours:
        assert ours[name]["keep"] == theirs[name]["keep"]
        for stage, figures in ours[name]["stages"].items():
            assert figures.get("top1") == theirs[name]["stages"][stage].get("top1")
            assert figures.get("agreement") == theirs[name]["stages"][stage].get("agreement")


def test_a_result_of_other_options_is_refused(whole, tmp_path, capsys):
    path = write_comparison(tmp_path, ENTRIES, output=str(whole / "results"), seeds=[0], budgets=["0.5"])
    text = path.read_text().replace(str(tmp_path), str(whole))
    path.write_text(text.replace("rounds: 2", "rounds: 3"))  # which only X-Pruner reads
    assert main(["compare", "--config", str(path)]) == 2
    assert "x_pruner-0.5-short-seed0.json was made with rounds 2, not 3; delete it" in capsys.readouterr().err


def test_other_weights_under_the_same_path_are_refused(tmp_path, capsys):
    """Two rows that were measured on different models are no comparison."""
    config = str(write_comparison(tmp_path, {"L1": {"method": "l1"}, "L2": {"method": "l2"}}, length="untrained"))
    assert main(["compare", "--config", config, "--entries", "L1"]) == 0
    identity = results(tmp_path)["l1-0.5-untrained-seed0"]["identity"]
    assert set(identity) == {"model", "training images", "test images"} and set(identity["model"]) == {
        "class",
        "weights",
    }
    weights = load_file(tmp_path / "dense.safetensors")
    save_file({name: tensor + 0.1 for name, tensor in weights.items()}, tmp_path / "dense.safetensors")
    capsys.readouterr()
    assert main(["compare", "--config", config]) == 1
    error = capsys.readouterr().err
    assert "l1-0.5-untrained-seed0.json was made on another model (weights" in error and "delete it" in error


def test_what_other_options_left_unfinished_is_refused(tmp_path, capsys):
    path = write_comparison(tmp_path, {"L2": {"method": "l2"}}, length="untrained")
    config = json.dumps({"rounds": 7})
    (tmp_path / "work" / "l2-0.5-untrained-seed0").mkdir(parents=True)
    (tmp_path / "work" / "l2-0.5-untrained-seed0" / "config.json").write_text(config)
    assert main(["compare", "--config", str(path)]) == 1
    assert "delete it to have the trial done again" in capsys.readouterr().err


@pytest.fixture
def fastest(monkeypatch):
    """Returns a function that sets which precision is the fastest here."""
    return lambda precision: monkeypatch.setattr(runs, "resolve_precision", lambda asked, device: precision)


def test_a_comparison_that_continues_where_another_precision_is_faster_shows_both(tmp_path, capsys, fastest):
    def compared(*labels: str) -> str:
        listed = {label: {"method": label.lower(), "precision": "auto"} for label in labels}
        assert main(["compare", "--config", str(write_comparison(tmp_path, listed, length="untrained"))]) == 0
        return capsys.readouterr().out

    fastest("bf16")
    assert "bf16" not in compared("L2")
    fastest("fp32")
    rows = [line.split() for line in compared("L2", "L1").splitlines()]
    assert {row[0]: row[-1] for row in rows if row and row[0] in ("L1", "L2")} == {"L1": "fp32", "L2": "bf16"}
    precisions = {result["label"]: result["config"]["precision"] for result in results(tmp_path).values()}
    assert precisions == {"L1": "fp32", "L2": "bf16"}
    assert main(["report", "compare", str(tmp_path / "results")]) == 0
    report = (tmp_path / "results" / "report" / "report.md").read_text()
    assert "These tables hold results in bf16 and in fp32." in report


def test_an_unfinished_run_continues_in_the_precision_it_was_begun_in(tmp_path, fastest):
    fastest("bf16")
    assert begin(tmp_path, RunConfig()).precision == "bf16"
    fastest("fp32")
    assert begin(tmp_path, RunConfig()).precision == "bf16"
    with pytest.raises(UsageError, match="was made with precision 'bf16', not 'fp32'"):
        begin(tmp_path, RunConfig(precision="fp32"))


def test_a_run_that_fails_does_not_keep_the_others_from_being_done(tmp_path, capsys):
    listed = {"HVT": {"method": "hvt", "budgets": ["params:0.5"]}, "L1": {"method": "l1"}}
    path = write_comparison(tmp_path, listed, length="untrained", budgets=["params:0.5", "0.5"])
    assert main(["compare", "--config", str(path)]) == 1
    assert "1 of 3 trials failed" in capsys.readouterr().err
    assert set(results(tmp_path)) == {"l1-params_0.5-untrained-seed0", "l1-0.5-untrained-seed0"}


def test_an_untrained_comparison_with_the_dense_model_has_a_report(tmp_path):
    path = write_comparison(tmp_path, {label: ENTRIES[label] for label in ("L2, block", "dense")}, length="untrained")
    assert main(["compare", "--config", str(path)]) == 0
    assert main(["report", "compare", str(tmp_path / "results"), "--output", str(tmp_path / "report")]) == 0
    assert "| dense | 1 | 1.0000 |" in (tmp_path / "report" / "report.md").read_text()


REFUSALS = [
    ({"entries": {"L2": {"method": "l3"}}}, "did you mean 'l2'"),
    ({"entries": {"L2": {"method": "l2", "serch": {}}}}, "did you mean 'search'"),
    ({"length": "shrt"}, "did you mean 'short'"),
    ({"entires": {}}, "did you mean 'entries'"),
    ({"seeds": "none"}, "seeds is 'none', but must be list[int]; correct it in "),
    ({"entries": {"L2": {"method": "l2", "seeds": 0}}}, "are 0; write a list, such as [0]"),
    ({"entries": {"L2": "l2"}}, "is 'l2'; it must hold options"),
    ({"entries": {"L2": {"method": "l2"}, "l2": {"method": "l2"}}}, "trials called l2-0.5-short-seed0"),
    ({"budgets": ["0.5", "half"]}, "budget 'half' is out of range"),
    ({"base": {"finetune": {"lr": -1}}}, "finetune.lr is -1"),
]


@pytest.mark.parametrize(("changes", "sentence"), REFUSALS)
def test_wrong_files_are_answered_in_one_sentence(tmp_path, capsys, changes, sentence):
    path = write_comparison(tmp_path, ENTRIES, **changes)
    assert main(["compare", "--config", str(path)]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ([], "No comparison is given"),
        (["--entries", "densest"], "did you mean 'dense'"),
        (["--seeds", "a"], "seeds are 'a'"),
    ],
)
def test_wrong_flags_are_answered_in_one_sentence(tmp_path, capsys, flags, sentence):
    config = ["--config", str(write_comparison(tmp_path, ENTRIES))] if flags else []
    assert main(["compare", *config, *flags]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        ([], ["L1", "L2", "L2, global"]),
        (["L"], ["L1", "L2", "L2, global"]),
        (["L2"], ["L2"]),
        (["L2,", "L1"], ["L1", "L2, global"]),
    ],
)
def test_entries_are_chosen_by_label_or_by_its_beginning(tmp_path, wanted, chosen):
    path = str(write_comparison(tmp_path, {label: {"method": "l2"} for label in ("L2", "L2, global", "L1")}))
    entries = read_study(path).entries("untrained", wanted)
    assert [entry.label for entry in entries] == chosen


def test_a_report_of_a_comparison(whole, tmp_path, capsys):
    assert main(["report", "compare", str(whole / "results"), f"--output={tmp_path / 'report'}"]) == 0
    text = (tmp_path / "report" / "report.md").read_text()
    assert text.startswith("# Digits\n\nRandom weights.\n")
    assert "| L2, block | 1 | 0.4" in text and "| dense | 1 | 1.0000 |" in text
    for name in ("accuracy-short.png", "keep_rates-0.5-short.png"):
        assert f"]({name})" in text
        assert (tmp_path / "report" / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [([], "Name what to report on"), (["compere", "."], "did you mean 'compare'"), (["compare", "."], "no results")],
)
def test_reports_on_nothing_are_refused(tmp_path, monkeypatch, capsys, words, sentence):
    monkeypatch.chdir(tmp_path)
    assert main(["report", *words]) == 2
    assert sentence in capsys.readouterr().err
