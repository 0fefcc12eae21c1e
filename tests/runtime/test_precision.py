"""Which precision ``auto`` is: by what the device can do, and on a CPU by what a step takes."""

import logging
import os
import platform
import subprocess
import sys

import pytest
import torch

from xpruner.runtime import precision as module
from xpruner.runtime.devices import autocast
from xpruner.runtime.precision import resolve_precision

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def forgotten():
    """What was resolved for a real device is not seen here, nor what is resolved here by others."""
    module._fastest.cache_clear()
    yield
    module._fastest.cache_clear()


@pytest.fixture
def cpu(monkeypatch):
    """Returns a function that says whether the CPU has instructions for bf16, and what a step takes in it."""

    def is_said_to_have(bf16: bool, *seconds: float) -> None:
        """Each of the ``seconds`` is that of a step in bf16; one in fp32 takes 1."""
        left = list(seconds)
        monkeypatch.setattr(module, "_cpu_has_bf16", lambda: bf16)
        monkeypatch.setattr(
            module, "_step_seconds", lambda model, inputs, asked: left.pop(0) if asked == "bf16" else 1.0
        )

    return is_said_to_have


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_what_is_asked_for_is_taken(precision, cpu):
    cpu(False)
    assert resolve_precision(precision, CPU) == precision


@pytest.mark.parametrize(("capability", "precision"), [((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_a_gpu_has_bf16_where_it_is_native(monkeypatch, capability, precision):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert resolve_precision("auto", GPU) == precision


def test_a_device_that_nothing_is_known_of_has_fp32():
    assert resolve_precision("auto", torch.device("mps")) == "fp32"


def test_a_cpu_without_the_instructions_has_fp32_and_nothing_is_timed(cpu):
    cpu(False)
    assert resolve_precision("auto", CPU) == "fp32"


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="of oneDNN on x86 alone")
def test_a_cpu_that_is_held_to_avx2_has_fp32():
    """As oneDNN reads its environment once, in a process of its own."""
    code = (
        "import runpy, torch; "
        f"print(runpy.run_path({module.__file__!r})['resolve_precision']('auto', torch.device('cpu')))"
    )
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "fp32\n"


@pytest.mark.parametrize(
    ("seconds", "precision"),
    [
        ((9, 0.7, 0.7, 0.8, 0.7, 3), "bf16"),  # neither the first step nor a single slow one counts
        ((9, 0.95, 0.95, 0.95, 0.95, 0.1), "fp32"),  # hardly faster
        ((9, 2, 2, 2, 2, 2), "fp32"),  # emulated
    ],
)
def test_a_cpu_has_bf16_where_a_step_is_clearly_faster(cpu, seconds, precision):
    cpu(True, *seconds)
    assert resolve_precision("auto", CPU) == precision


def test_it_is_measured_once_and_said_in_one_line(cpu, caplog):
    caplog.set_level(logging.INFO, "xpruner")
    cpu(True, 9, *[0.7] * 5)  # a second measurement would find none left
    assert [resolve_precision("auto", CPU) for _ in range(2)] == ["bf16", "bf16"]
    assert caplog.messages == ["precision bf16: in bf16 a training step takes 0.70 of its time in fp32 on this CPU"]


def test_the_measurement_changes_no_random_number_and_works_where_gradients_are_off():
    expected = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    with torch.inference_mode():
        assert module._bf16_share_of_time(tokens=4, width=8, rounds=1) > 0
    assert torch.equal(torch.rand(3), torch.rand(3, generator=expected))


@pytest.mark.parametrize(("bf16", "dtype"), [(0.5, torch.bfloat16), (2.0, torch.float32)])
def test_autocast_resolves_auto(cpu, bf16, dtype):
    cpu(True, *[bf16] * 6)
    with autocast("auto", CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
