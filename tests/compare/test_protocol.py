"""What a run of a comparison checks and chooses by itself."""

from dataclasses import replace

import pytest
import torch
from tiny_comparison import write_comparison
from torch import nn

from xpruner.compare import protocol
from xpruner.compare.study import Trial, read_study, trials_of
from xpruner.errors import XPrunerError
from xpruner.measure.resources import measured
from xpruner.methods import Method, Outcome, find_method
from xpruner.plan.plan import Plan
from xpruner.run import setup, stages
from xpruner.surgery import apply


@pytest.fixture
def run(tmp_path) -> Trial:
    path = write_comparison(tmp_path, {"L2": {"method": "l2"}}, length="untrained")
    return read_study(str(path)).trials("untrained")[0]


def always_says(model: nn.Module, number: int) -> nn.Module:
    """Returns the model, which from now on gives every image the same class."""
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.arange(10.0) == number)
    return model


def hand_over(monkeypatch, number: int) -> None:
    """Makes the search hand over a model that always says the same class."""

    def search(problem):
        plan = l2(problem).plan
        return Outcome(plan, model=always_says(apply(problem.model, plan), number))

    l2 = find_method("l2")
    monkeypatch.setattr(setup, "find_method", lambda name: Method("l2", search))


def share_of(reference: protocol.Reference, label: int) -> object:
    """Returns the share of the measured images that are of a class."""
    return pytest.approx((reference.setup.data.measured.labels == label).float().mean().item())


def test_a_method_that_misses_the_budget_is_refused(run, tmp_path, monkeypatch):
    keep_all = Method("l2", lambda problem: Outcome(Plan.of(problem.units, {"blocks.0.mlp:hidden": range(90)})))
    monkeypatch.setattr(setup, "find_method", lambda name: keep_all)
    with pytest.raises(XPrunerError, match=r"'l2' made a model of [\d,]+ macs where [\d,]+ were asked for"):
        protocol.run_one(protocol.set_up(run), run, tmp_path / "state")


@pytest.mark.parametrize("helps", [True, False])
def test_fine_tuning_starts_from_the_better_one(run, tmp_path, monkeypatch, helps):
    """A compensation is measured; it is not taken where it does worse on the images behind those of calibration."""
    reference = protocol.set_up(run)
    counts = reference.setup.data.train.labels[64:128].bincount(minlength=10)
    rare, common = counts.argmin().item(), counts.argmax().item()
    before, compensated = (rare, common) if helps else (common, rare)
    hand_over(monkeypatch, before)
    monkeypatch.setattr(stages, "compensate", lambda model, *_args, **_options: always_says(model, compensated))
    monkeypatch.setattr(stages, "finetune", lambda model, *_args, **_options: started.append(model) or model)
    started: list[nn.Module] = []
    tuned = replace(run, config=replace(run.config, finetune=replace(run.config.finetune, steps=1)))
    found = protocol.run_one(reference, tuned, tmp_path / "state")["stages"]
    assert found["compensated"]["top1"] == pytest.approx(
        (reference.setup.data.measured.labels == compensated).float().mean().item()
    )
    assert found["compensated"]["taken"] is helps
    assert [model.head.bias.argmax().item() for model in started] == [common]


def test_a_run_that_was_stopped_behind_its_search_keeps_what_it_found(run, tmp_path, monkeypatch):
    reference = protocol.set_up(run)
    whole = protocol.run_one(reference, run, tmp_path / "state")
    monkeypatch.delattr(stages, "search")  # nothing is searched for again
    again = protocol.run_one(reference, run, tmp_path / "state")
    assert again["keep"] == whole["keep"] and not whole["resumed"] and again["resumed"]


def test_a_search_that_trains_weights_hands_its_model_over(run, tmp_path, monkeypatch):
    """Its own weights are measured as found, and compensated; the dense weights under the same plan are the cut."""
    hand_over(monkeypatch, 3)
    monkeypatch.setattr(stages, "compensate", lambda model, *_args, **_options: model)
    reference = protocol.set_up(run)
    found = protocol.run_one(reference, run, tmp_path / "state")["stages"]
    assert found["found"]["top1"] == share_of(reference, 3)
    agreement = {stage: figures.get("agreement") for stage, figures in found.items()}
    assert agreement["cut"] != agreement["found"] == agreement["compensated"]


def test_features_are_compared_where_the_stream_was_cut(tmp_path):
    path = write_comparison(tmp_path, {"Isomorphic": {"method": "isomorphic", "finetune": {"features": 1.0}}})
    run = read_study(str(path)).trials()[0]
    result = protocol.run_one(protocol.set_up(run), run, tmp_path / "state")
    kept, dense = result["keep"]["stream:embed"]
    assert kept < dense and "finetuned" in result["stages"]


def test_runs_go_seed_by_seed_and_budget_by_budget(tmp_path):
    path = write_comparison(tmp_path, {"A, b": {"method": "l1"}, "C": {"method": "l2", "seeds": [0]}}, seeds=[0, 1])
    entries = [replace(entry, budgets=["0.5", "0.3"]) for entry in read_study(str(path)).entries()]
    names = [trial.name for trial in trials_of(entries, [0, 1], ["0.3", "0.5"], "short")]
    assert names == [
        "a_b-0.3-short-seed0", "c-0.3-short-seed0", "a_b-0.5-short-seed0", "c-0.5-short-seed0",
        "a_b-0.3-short-seed1", "a_b-0.5-short-seed1",
    ]  # fmt: skip


def test_peak_memory_is_that_of_the_stage():
    """64 MiB that are touched and freed show in their own stage alone."""
    figures: list[dict] = [{}, {}]
    with measured(figures[0]):
        torch.ones(16 * 2**20).sum()
    with measured(figures[1]):
        pass
    assert figures[0]["peak_mb"] - figures[1]["peak_mb"] > 50
    assert 0 <= figures[1]["seconds"] < figures[0]["seconds"]
