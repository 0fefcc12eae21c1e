"""Wall time, CPU time and peak memory of a stage."""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

STATUS, REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@contextmanager
def measured(figures: dict[str, float]) -> Iterator[None]:
    """Writes ``seconds``, ``cpu_seconds`` and ``peak_mb`` of what runs inside into ``figures``.

    CPU seconds are those of all threads of this process, which other work on the machine changes little.
    The peak is that of the GPU where there is one, else the resident memory of this process; where the system cannot
    set its high-water mark back (other than Linux), it is the highest since the process began.
    """
    _reset_peak()
    start, worked = time.perf_counter(), time.process_time()
    yield
    figures["seconds"] = time.perf_counter() - start
    figures["cpu_seconds"] = time.process_time() - worked
    figures["peak_mb"] = peak_megabytes()


def _reset_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        REFS.write_text("5")


def peak_megabytes() -> float:
    """Returns the highest memory in use, in MiB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    if STATUS.exists():
        return int(STATUS.read_text().split("VmHWM:")[1].split()[0]) / 2**10
    per_mib = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / per_mib
