"""Ask a finished run: which classes a unit serves, why it was pruned, what the model looks at, and who pays."""

# %% The run of the first example, opened again.
import runpy
from pathlib import Path

import torch

import xpruner
from xpruner.explain import audit_run, class_card, find_class, saliency, unit_card

if not Path("runs/first/pruned/structure.json").exists():
    runpy.run_path(str(Path(__file__).with_name("01_first_prune.py")))
run = xpruner.open_run("runs/first")

# %% Masks: for each group a table of classes by units; 1 where the unit is indispensable to the class.
key = "blocks.1.mlp:hidden"
table = run.dense_masks[key]
print(f"{key}: {table.shape[0]} classes by {table.shape[1]} units, from {table.min():.2f} to {table.max():.2f}")

# %% A unit's card: the classes that it serves, the reason in words, and what is lost without it.
pruned_unit = next(unit for unit in range(table.shape[1]) if unit not in run.plan.keep[key])
for unit in (run.plan.keep[key][0], pruned_unit):
    card = unit_card(run, key, unit, count=200)
    print(f"{card.name} serves {', '.join(list(card.serves)[:3])}. {card.why}")

# %% A class's card: layer by layer, the units that carry it, and whether they were kept.
three = find_class("3", run.class_names)
for layer in class_card(run, three).layers[:2]:
    carriers = ", ".join(f"{each.unit} ({'kept' if each.kept else 'pruned'})" for each in layer.carried_by[:3])
    print(f"{layer.key} carries a 3 by its units {carriers}")

# %% A map: which pixels the prediction of both models depends on, for an image of a three.
number = next(i for i in range(len(run.images)) if run.images[i][1] == three)
image = run.images[number][0][None]
dense, small = (saliency(model, image, "relevance")[0].flatten() for model in (run.dense, run.pruned))
print(f"correlation of both models' maps: {torch.corrcoef(torch.stack([dense, small]))[0, 1]:.2f}")

# %% The audit: what every class lost, with the images that changed sides.
audit = audit_run(run)
print(f"all classes lost {audit.overall.drop:.1f} points of top-1, {audit.worst.name} the most, {audit.worst.drop:.1f}")
