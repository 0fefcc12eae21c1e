"""Which of timm's models and modules the oldest supported version lacks, or computes otherwise than the newest."""

import timm
from packaging import version

TIMM = version.parse(timm.__version__)

SINCE = {
    "cpubone_b2_bfrobust": "1.0.29",
    "lowformer_b1": "1.0.29",
    "deepseek_vit_412m": "1.0.30",
    "qwen3_vit_88m": "1.0.30",
    "vit_5b_patch16_sapiens2": "1.0.30",
    "rope, grouped": "1.0.30",
    "gcvit, global": "1.0.31",  # before, each window read the queries of another image
    "gcvit": "1.0.31",  # likewise
    "convit_tiny": "1.0.31",  # before, its positions did not follow the module to another device
    "vit_small_patch16_rope_mixed_224": "1.0.31",  # before, in float32 alone
    "window size of beit": "1.0.31",
    "window size of swin v2 cr": "1.0.31",
}
"""By the name of a test's case: the first version of timm in which it holds."""


def there(case: str) -> bool:
    """Whether a case holds in the timm that is installed."""
    return case not in SINCE or version.parse(SINCE[case]) <= TIMM
