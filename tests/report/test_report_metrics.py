"""What the page shows of `metrics.json`: stages, latency, the result in one line."""

import pytest

from xpruner.errors import UsageError
from xpruner.report.metrics import Latency, Result, Stage, finished
from xpruner.run.metrics import STAGES

FIGURES = {
    "dense": {"top1": 0.9191, "macs": 208, "params": 55, "seconds": 1.0},
    "pruned": {"top1": 0.7, "macs": 104, "params": 22},
    "compensated": {"top1": 0.8, "macs": 104, "params": 22},
    "finetuned": {"top1": 0.9123, "macs": 104, "params": 22},
}


def test_stages_and_latency_are_those_of_the_file():
    measured = {"dense": {"1": 3.0, "32": 148.0}, "pruned": {"1": 4.0, "32": 100.0}}
    result = Result.of({**FIGURES, "latency": measured}, "macs")
    assert [stage.name for stage in result.stages] == list(STAGES.values())
    assert result.stages[-1] == Stage("fine-tuned", 0.9123, 104, 22)
    assert result.latency == [Latency(1, 3.0, 4.0), Latency(32, 148.0, 100.0)]
    assert Result.of(FIGURES, "macs").latency == []


@pytest.mark.parametrize(
    ("latency", "resource", "line"),
    [
        ([Latency(1, 3.0, 4.0), Latency(32, 148.0, 100.0)], "macs",
         "50.0 % of the MACs, 1.48× as fast at batch 32, 91.9 → 91.2 % top-1"),
        ([], "macs", "50.0 % of the MACs, 91.9 → 91.2 % top-1"),
        ([], "params", "40.0 % of the parameters, 91.9 → 91.2 % top-1"),
    ],
)  # fmt: skip
def test_the_headline(latency, resource, line):
    assert Result(Result.of(FIGURES, "macs").stages, latency, resource).headline == line


@pytest.mark.parametrize("present", [[], ["dense", "pruned"]])
def test_figures_of_a_run_that_is_not_finished(tmp_path, present):
    with pytest.raises(UsageError, match="is not finished; the same `xpruner prune` command finishes it"):
        finished(tmp_path, {name: FIGURES[name] for name in present})
    assert finished(tmp_path, FIGURES) == FIGURES


def test_a_compensation_that_did_worse_is_called_so():
    figures = {"top1": 0.5, "macs": 10, "params": 10}
    metrics = {"dense": figures, "pruned": figures, "compensated": {**figures, "taken": False}, "finetuned": figures}
    names = [stage.name for stage in Result.of(metrics, "macs").stages]
    assert names == ["dense", "pruned", "compensated, not kept", "fine-tuned"]
