"""Contents of a page made up from random masks, of any number of classes and layers."""

import numpy as np
import torch

from xpruner.explain.audit import audit
from xpruner.explain.map_pair import MapSimilarity
from xpruner.explain.pictures import data_uri
from xpruner.methods.xpruner.guard import GuardFigures
from xpruner.report.changes import ChangedImage, Changes, gained_first, lost_first
from xpruner.report.contents import Contents, Evidence, LayerRates, Masks
from xpruner.report.metrics import Latency, Result, Stage
from xpruner.report.pairs import Maps, Pair
from xpruner.report.tables import class_rows, mask_table, width
from xpruner.run.tracking import Curve


def made_up(names: list[str], sizes: dict[str, int], seed: int = 0) -> Contents:
    """Returns contents with random masks for the classes, of which every other unit is kept, and random predictions."""
    rng = np.random.default_rng(seed)
    masks = {key: rng.random((len(names), size)).astype(np.float32) for key, size in sizes.items()}
    rows = class_rows(masks)
    most = width(list(sizes.values()), len(rows))
    shown = [[names[c] for c in row] for row in rows]
    evidence = Evidence(shown, list(sizes), rng.integers(0, 101, (len(rows), len(sizes)), dtype=np.uint8))
    tables = [mask_table(key, m, range(0, m.shape[1], 2), rows, names, most) for key, m in masks.items()]
    labels = torch.arange(5 * len(names)) % len(names)
    dense, pruned = (torch.where(torch.from_numpy(rng.random(len(labels)) < share), labels, (labels + 1) % len(names))
                     for share in (0.9, 0.7))  # fmt: skip
    audited = audit(dense, pruned, labels, names)
    picture = data_uri(rng.random((160, 160, 3)))
    lost, gained = (
        [ChangedImage(n, names[int(labels[n])], names[0], picture) for n in numbers[:12]]
        for numbers in (lost_first(audited), gained_first(audited))
    )
    pair = Pair(
        7,
        names[0],
        names[0],
        names[-1],
        *[picture] * 3,
        similarity=MapSimilarity(0.75, 0.5),
        chance=MapSimilarity(-0.125, 0.11),
    )
    return Contents(
        model="vit", method="xpruner",
        result=Result(
            [Stage("dense", 0.9, 200, 20), Stage("fine-tuned", 0.7, 100, 11)],
            [Latency(1, 2.0, 2.5), Latency(32, 30.0, 20.0)],
        ),
        images=len(labels), held_out=False,
        layers=[LayerRates(key, key.rpartition(":")[2], size, (size + 1) // 2, 0.5) for key, size in sizes.items()],
        importance="odds", limit=None, guard=None, masks=Masks("masks_dense.safetensors", evidence, tables),
        changes=Changes(audited, lost, gained), maps=Maps("relevance", [pair] * 6),
        curves=[Curve("finetune", 1, list(range(1, 5001)), {"loss": rng.random(5000).tolist()})],
        config="seed: 0\n", versions={"xpruner": "0.1.0"},
    )  # fmt: skip


def guard_of(classes: int, **changed) -> GuardFigures:
    """Returns what a guard of 2 points came to, with a multiplier of 1 for each class."""
    figures = {
        "limit": 2.0, "largest": 1.5, "drops": [1.5] + [0.5] * (classes - 1), "weights": [1.0] * classes,
        "images": 4000, "price": 0.25, "largest_without": 3.5, "budget": 0.5, "budget_without": None,
    }  # fmt: skip
    return GuardFigures(**{**figures, **changed})
