"""Prune on images of your own: a folder that holds a folder of images for each class."""

# %% Write such a folder: my_images/3/17.png is the seventeenth image of a three. PNG, JPEG and others are read.
import runpy
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_digits

import xpruner

digits = load_digits()
for number, (pixels, label) in enumerate(zip(digits.images[:600], digits.target[:600], strict=True)):
    path = Path("my_images", str(label), f"{number}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((pixels * 15).astype("uint8")).resize((32, 32)).save(path)

# %% The dense model of the first example; it is trained there where that was not done yet.
if not Path("runs/digits/structure.json").exists():
    runpy.run_path(str(Path(__file__).with_name("01_first_prune.py")))

# %% What the model expects of an image: size, mean and so on. Images are resized and normalised to it.
model = xpruner.load("runs/digits")
print(f"the model takes {xpruner.InputSpec.of(model)}")

# %% The folder's classes are the model's, by their names, in whatever order they lie on disk. A fifth of each class is
# held out for testing, and some training images serve for calibration.
images = xpruner.DataConfig("my_images", batch_size=32, augment="none", calibration_size=256)
data = xpruner.load_data(images, xpruner.InputSpec.of(model), seed=0)
print(f"{len(data.train)} training images, {len(data.test)} test images of classes {', '.join(data.class_names)}")

# %% Prune on them, with one round of search, and compensation in place of fine-tuning.
# (The model has seen most of these digits when it was trained, so that the figures flatter it.)
result = xpruner.prune(
    model,
    images,
    budget=0.6,
    output="runs/my_images",
    rounds=1,
    finetune={"steps": 0},
    precision="fp32",
    latency=[],
)
for stage in ("dense", "pruned", "compensated"):
    print(f"{stage:12} top-1 {result.metrics[stage]['top1']:.1%}")
