"""Contents of a page made up from random masks, of any number of classes and layers."""

import numpy as np
import torch

from xpruner.explain.audit import audit
from xpruner.explain.pictures import data_uri
from xpruner.report.contents import (
    Contents,
    Drop,
    Evidence,
    Latency,
    LayerRates,
    LostImage,
    Stage,
    headline,
    lost_first,
)
from xpruner.report.pairs import Pair
from xpruner.report.tables import class_rows, mask_table, width
from xpruner.tracking import Curve


def made_up(names: list[str], sizes: dict[str, int], seed: int = 0) -> Contents:
    """Returns contents with random masks for the classes, of which every other unit is kept, and random answers."""
    rng = np.random.default_rng(seed)
    masks = {key: rng.random((len(names), size)).astype(np.float32) for key, size in sizes.items()}
    rows = class_rows(masks)
    most = width(list(sizes.values()), len(rows))
    labels = torch.arange(5 * len(names)) % len(names)
    dense, pruned = (torch.where(torch.from_numpy(rng.random(len(labels)) < share), labels, (labels + 1) % len(names))
                     for share in (0.9, 0.7))  # fmt: skip
    audited = audit(dense, pruned, labels, names)
    picture = data_uri(rng.random((160, 160, 3)))
    stages = [Stage("dense", 0.9, 200, 20), Stage("fine-tuned", 0.7, 100, 11)]
    latency = [Latency(1, 2.0, 2.5), Latency(32, 30.0, 20.0)]
    shown = [[names[c] for c in row] for row in rows]
    return Contents(
        model="vit", method="xpruner", headline=headline(stages, latency), stages=stages, latency=latency,
        images=len(labels), held_out=False,
        layers=[LayerRates(key, key.rpartition(":")[2], size, (size + 1) // 2, 0.5) for key, size in sizes.items()],
        importance="odds",
        evidence=Evidence(shown, list(sizes), rng.integers(0, 101, (len(rows), len(sizes)), dtype=np.uint8)),
        masks=[mask_table(key, m, range(0, m.shape[1], 2), rows, names, most) for key, m in masks.items()],
        audit=audited, drops=[Drop.of(len(c.lost), len(c.gained), c.images) for c in audited.classes],
        drop=Drop.of(10, 4, len(labels)),
        lost=[LostImage(n, names[int(labels[n])], names[0], picture) for n in lost_first(audited)[:12]],
        maps_method="relevance", pairs=[Pair(7, names[0], names[0], names[-1], *[picture] * 3, 0.75)] * 6,
        without_maps="",
        curves=[Curve("finetune", 1, list(range(1, 5001)), {"loss": rng.random(5000).tolist()})],
        config="seed: 0\n", versions={"xpruner": "0.1.0"},
    )  # fmt: skip
