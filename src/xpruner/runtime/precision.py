"""Which precision ``auto`` is: bf16 where it is faster than fp32."""

import logging
import statistics
import time
from functools import cache

import torch
from torch import Tensor, nn

log = logging.getLogger("xpruner")

AUTO = "auto"
CLEARLY_FASTER = 0.9
"""The share of its time in fp32 below which a training step must be on a CPU for bf16 to be chosen."""


def resolve_precision(asked: str, device: torch.device) -> str:
    """Returns the precision asked for or, for ``auto``, the faster of ``bf16`` and ``fp32`` on a device.

    On a GPU bf16 is chosen where it is native; on a CPU where there are instructions for it and a training step,
    measured once in a process, is clearly faster. fp16 is never chosen: the searches do not scale their gradients.
    """
    return _fastest(device) if asked == AUTO else asked


@cache
def _fastest(device: torch.device) -> str:
    """Chooses between bf16 and fp32, and logs why."""
    bf16, reason = _is_bf16_faster(device)
    precision = "bf16" if bf16 else "fp32"
    log.info("precision %s: %s", precision, reason)
    return precision


def _is_bf16_faster(device: torch.device) -> tuple[bool, str]:
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)
        return native, f"this GPU {'computes in' if native else 'emulates'} bf16"
    if device.type != "cpu":
        return False, f"bf16 is not known to be faster on {device.type}"
    if not _cpu_has_bf16():
        return False, "this CPU emulates bf16"
    share = _bf16_share_of_time()
    return share < CLEARLY_FASTER, f"in bf16 a training step takes {share:.2f} of its time in fp32 on this CPU"


def _cpu_has_bf16() -> bool:
    """Returns whether oneDNN, which runs the matrix products, has kernels in bf16 for this CPU."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


@torch.inference_mode(False)
@torch.enable_grad()
def _bf16_share_of_time(tokens: int = 400, width: int = 192, rounds: int = 5) -> float:
    """Times forward and backward of one of DeiT-tiny's MLPs in both precisions by turns; compares the medians."""
    with torch.random.fork_rng(devices=[]):
        inputs = torch.randn(tokens, width)
        layers = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
    mlp = nn.Sequential(*layers)
    seconds: dict[str, list[float]] = {"bf16": [], "fp32": []}
    for _ in range(1 + rounds):
        for precision, times in seconds.items():
            times.append(_step_seconds(mlp, inputs, precision))
    bf16, fp32 = (statistics.median(times[1:]) for times in seconds.values())  # the first of each is a warm-up
    return bf16 / fp32


def _step_seconds(model: nn.Module, inputs: Tensor, precision: str) -> float:
    start = time.perf_counter()
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=precision == "bf16"):
        loss = model(inputs).float().square().mean()
    loss.backward()
    return time.perf_counter() - start
