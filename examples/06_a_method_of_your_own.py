"""Add a pruning method: a score with an option of its own, run like every other method."""

# %% The dense model of the first example.
import runpy
from dataclasses import dataclass
from pathlib import Path

import torch

import xpruner

if not Path("runs/digits/structure.json").exists():
    runpy.run_path(str(Path(__file__).with_name("01_first_prune.py")))


# %% A score is a function from a problem to (units,) numbers for each group; higher is kept. Its options are a
# dataclass: a run gives them as ``search.options``, and refuses unknown ones.
@dataclass
class Options:
    """How much the images count: 0 for the weights alone, 1 for weights and images alike."""

    share: float = 1.0


@xpruner.register_score("output_energy", options=Options)
def output_energy(problem: xpruner.Problem) -> dict[str, torch.Tensor]:
    """The squared weights that read a unit, times the mean square of its output to the power of ``share``."""
    moments = xpruner.consumer_moments(problem.model, problem.units, problem.calibration)
    scores = {}
    for group in problem.units:
        weight = problem.model.get_submodule(group.consumer).weight.detach().square().sum(0)
        energy = moments[group.key].second.diag().clamp(min=0) ** problem.options.share
        scores[group.key] = (weight * energy)[group.channels].sum(1)
    return scores


print(f"output_energy is one of {len(xpruner.list_methods())} methods")

# %% It runs through the same stages as the others, so that they can be compared: the same images, budget, compensation.
images = xpruner.DataConfig("digits", batch_size=32, augment="none", calibration_size=256)
common = {"finetune": {"steps": 0}, "precision": "fp32", "latency": []}
searches = {"output_energy": {"options": {"share": 1.0}}, "taylor": {}, "random": {}}
for method, search in searches.items():
    result = xpruner.prune("runs/digits", images, 0.6, output=f"runs/{method}", method=method, search=search, **common)
    top1 = {stage: f"{result.metrics[stage]['top1']:.1%}" for stage in ("pruned", "compensated")}
    print(f"{method:14} top-1 {top1['pruned']} cut, {top1['compensated']} compensated")
