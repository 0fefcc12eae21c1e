"""Who does which run: programs that do the same comparison share it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xpruner.errors import UsageError

try:
    import fcntl
except ImportError:  # no such locks on this system
    fcntl = None  # type: ignore[assignment]


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Yields whether this program may do a run; the claim ends with the program, however it ends.

    Where the system has no such locks (other than Unix) every program may: only one should be started there.

    Args:
        path: The lock of the run.

    Raises:
        UsageError: If the disk knows no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        yield _lock(lock, path)


def _lock(lock, path: Path) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise UsageError(f"{path} cannot be locked ({error.strerror}); put `work` on a disk that has locks.") from error
    return True
