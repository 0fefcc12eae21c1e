"""Processes of their own that need no seconds to start: forks of one that has imported what takes them."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["xpruner.run.pipeline", "sklearn.datasets", "torch._dynamo", "torch.utils.tensorboard"])


def started(function: Callable[..., None], *arguments: object) -> ForkServerProcess:
    """Returns a process that has begun to run a function, of which a module has that name."""
    process = _forks.Process(target=function, args=arguments)
    process.start()
    return process


def exit_code(function: Callable[..., None], *arguments: object) -> int | None:
    """Runs a function in a process and returns how that ended: with 0, or below 0 by the signal of that number."""
    process = started(function, *arguments)
    process.join()
    return process.exitcode
