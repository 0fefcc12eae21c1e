"""From a finished run to a model for some of its classes: without what none of these needs."""

# %% The run of the first example holds masks of every class, so that nothing has to be learned anew.
import runpy
from pathlib import Path

import xpruner
from xpruner.explain import find_classes

if not Path("runs/first/pruned/structure.json").exists():
    runpy.run_path(str(Path(__file__).with_name("01_first_prune.py")))
run = xpruner.open_run("runs/first")

# %% Three digits, at three tenths of the dense model's MACs. The classifier keeps their outputs alone.
labels = find_classes(["1", "4", "7"], run.class_names)
small = xpruner.specialise(run, labels, budget=0.3, rounds=1)
for stage in ("dense", "cut", "compensated"):
    figures = small.metrics[stage]
    print(f"{stage:12} top-1 {figures['top1']:.1%} among {', '.join(small.class_names)}, {figures['macs']:,.0f} MACs")

# %% What is different: a unit that all ten classes needed may be of no use to three.
ten, three = (sum(map(len, plan.keep.values())) for plan in (run.plan, small.plan))
print(f"the plan for ten classes keeps {ten} units, the one for three {three}")

# %% A plain model, to be saved and loaded like any other.
xpruner.save(small.model, "runs/three_digits", class_names=small.class_names)
print(f"it lies in runs/three_digits and has {xpruner.count_params(xpruner.load('runs/three_digits')):,} parameters")
