"""What a result depends on besides its options."""

import platform
from typing import Any

import torch


def environment(precision: str) -> dict[str, Any]:
    """Returns what a result depends on: versions and device, and in which precision it was made."""
    import timm

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "threads": torch.get_num_threads(),
        "precision": precision,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
    }
