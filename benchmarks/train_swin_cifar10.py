"""Trains a small Swin on CIFAR-10 from scratch: the dense starting point of the Swin benchmark.

    python benchmarks/train_swin_cifar10.py --data ../shared/data/cifar10 --out benchmarks/weights/swin_cifar10

The network is timm's SwinTransformer at 32 px: patch 2, window 4, width 48, depths 2-4-2, heads 3-6-12 (1.49 M
parameters, 60.9 MMACs). Recipe: AdamW 2e-3 with cosine decay and one epoch of warm-up, batch 128, weight decay 0.05,
4 px random crop and flip, label smoothing 0.1, bf16 autocast, the whole training set; nothing is tuned on the test set.
"""

import argparse
import io
import json
import time
from pathlib import Path

import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import save_file

from xpruner._compat import declare_torchvision_ops

declare_torchvision_ops()

import timm
from timm.scheduler import CosineLRScheduler
from torchvision.transforms.v2 import functional as tvf

ARCHITECTURE = "swin_tiny_patch4_window7_224"
KWARGS = dict(
    img_size=32, patch_size=2, window_size=4, embed_dim=48, depths=(2, 4, 2), num_heads=(3, 6, 12), num_classes=10
)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def read_parquet(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    table = pq.read_table(path).to_pydict()
    images = [Image.open(io.BytesIO(row["bytes"])).convert("RGB") for row in table["image"]]
    return torch.stack([tvf.pil_to_tensor(image) for image in images]), torch.tensor(table["label"])


def normalise(images: torch.Tensor) -> torch.Tensor:
    return tvf.normalize(images.float() / 255, MEAN, STD)


def augment(images: torch.Tensor, padding: int = 4) -> torch.Tensor:
    """Flips and shifts every image (batch, 3, 32, 32) on its own."""
    batch, _, height, width = images.shape
    padded = torch.nn.functional.pad(images, [padding] * 4)
    top, left = torch.randint(0, 2 * padding + 1, (2, batch, 1))
    rows, columns = top + torch.arange(height), left + torch.arange(width)
    columns = torch.where(torch.rand(batch, 1) < 0.5, columns, columns.flip(1))
    return padded[torch.arange(batch)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@torch.inference_mode()
def accuracy(model, images, labels) -> float:
    model.eval()
    hits = 0
    for x, y in zip(images.split(250), labels.split(250), strict=True):
        hits += (model(normalise(x)).argmax(1) == y).sum().item()
    return hits / len(labels)


def train(model, images, labels, epochs: int, batch: int = 128, lr: float = 2e-3) -> None:
    steps = len(labels) // batch
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}], lr)
    schedule = CosineLRScheduler(optimizer, steps * epochs, warmup_t=steps, warmup_lr_init=1e-5, t_in_epochs=False)
    for epoch in range(epochs):
        model.train()
        start, total = time.perf_counter(), 0.0
        for step, index in enumerate(torch.randperm(len(labels))[: steps * batch].split(batch)):
            schedule.step_update(epoch * steps + step)
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(normalise(augment(images[index])))
            loss = torch.nn.functional.cross_entropy(logits.float(), labels[index], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            total += loss.item()
        print(f"epoch {epoch + 1}/{epochs}  loss {total / steps:.3f}  {time.perf_counter() - start:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    model = timm.create_model(ARCHITECTURE, drop_path_rate=0.0, **KWARGS)
    start = time.perf_counter()
    train(model, *read_parquet(args.data / "train.parquet"), epochs=args.epochs)
    seconds = time.perf_counter() - start
    half = {name: tensor.half() for name, tensor in model.state_dict().items()}
    model.load_state_dict(half)  # what is stored is what is measured
    top1 = accuracy(model, *read_parquet(args.data / "test.parquet"))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(half, args.out.with_suffix(".safetensors"))
    record = {
        "command": f"python benchmarks/train_swin_cifar10.py --data DATA --epochs {args.epochs} --seed {args.seed}",
        "architecture": ARCHITECTURE,
        "kwargs": KWARGS,
        "test_top1": top1,
        "train_seconds": seconds,
        "torch": torch.__version__,
        "timm": timm.__version__,
    }
    args.out.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
