"""Train a small vision transformer on handwritten digits, and prune it to half its multiply-accumulates."""

# %% A dense model. Yours is trained already; here one is made with random weights, as a warning says, and trained for
# some seconds.
from pathlib import Path

import torch

import xpruner

SIZES = {"patch_size": 8, "embed_dim": 64, "depth": 3, "num_heads": 4}
images = xpruner.DataConfig("digits", batch_size=32, augment="none", calibration_size=256, cache=True)

if not Path("runs/digits/structure.json").exists():
    torch.manual_seed(0)
    model, kwargs = xpruner.load_model(
        xpruner.ModelConfig("deit_tiny_patch16_224", num_classes=10, img_size=32, kwargs=SIZES)
    )
    data = xpruner.load_data(images, xpruner.InputSpec.of(model), seed=0)
    recipe = xpruner.FinetuneConfig(epochs=15, lr=2e-3, distill=0.0)  # on labels alone
    xpruner.finetune(model, None, data.train, recipe, xpruner.LoopOptions(batch_size=32))
    xpruner.save(model, "runs/digits", kwargs=kwargs, class_names=data.class_names)

# %% One call learns which units each class needs, cuts the others, compensates for them, fine-tunes and measures.
# Called again with the same arguments it goes on where it was stopped, or just hands back what it made.
result = xpruner.prune(
    "runs/digits",
    images,
    budget=0.5,
    output="runs/first",
    rounds=2,
    finetune={"epochs": 2},
    precision="fp32",
    latency=[1],
)

# %% The figures of every stage, on images that were held out.
for stage in ("dense", "pruned", "compensated", "finetuned"):
    figures = result.metrics[stage]
    print(
        f"{stage:12} top-1 {figures['top1']:.1%}, {figures['macs'] / 1e6:.2f} M MACs, {figures['params']:,} parameters"
    )

# %% The plan says which units were kept, and the pruned model is one of timm, without a wrapper.
print(result.plan)
smaller = xpruner.load(result.folder / "pruned")
print(f"it lies in {result.folder / 'pruned'} and has {xpruner.count_macs(smaller):,.0f} MACs")
