import random

import numpy as np
import pytest
import torch

from xpruner.errors import UsageError
from xpruner.runtime.devices import accelerator, autocast, seed_step

CPU = torch.device("cpu")


def product(precision: str) -> torch.Tensor:
    with autocast(precision, CPU):
        return torch.ones(2, 2) @ torch.ones(2, 2)


def draws(*key: int) -> tuple[float, float, float]:
    seed_step(*key)
    return random.random(), np.random.rand(), torch.rand(()).item()


def test_precision_of_a_matrix_product():
    assert product("fp32").dtype == torch.float32
    assert product("bf16").dtype == torch.bfloat16


def test_fp32_means_fp32_inside_another_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        assert product("fp32").dtype == torch.float32


def test_fp16_on_a_cpu_is_refused():
    with pytest.raises(UsageError, match=r"^Precision fp16 needs a GPU; choose bf16 or fp32 on a CPU\.$"):
        autocast("fp16", CPU)


def test_an_unknown_precision_is_named():
    with pytest.raises(UsageError, match="Unknown precision 'bf61'; did you mean 'bf16'"):
        autocast("bf61", CPU)


def test_a_step_draws_the_same_numbers_every_time():
    assert draws(0, 7) == draws(0, 7)


@pytest.mark.parametrize("other", [(1, 7), (0, 8), (0, 7, 1)], ids=["seed", "step", "rank"])
def test_another_seed_step_or_process_draws_other_numbers(other):
    assert all(a != b for a, b in zip(draws(0, 7), draws(*other), strict=True))


def test_a_batch_is_split_over_processes():
    assert accelerator().split_batches
