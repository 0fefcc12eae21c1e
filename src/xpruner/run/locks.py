"""Who works in which folder: a lock that ends with its program, however that ends."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from accelerate import PartialState

from xpruner.errors import UsageError, XPrunerError

try:
    import fcntl
except ImportError:  # no such locks on this system
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("xpruner")

LOCK = ".lock"
_held: set[IO[str]] = set()
if hasattr(os, "register_at_fork"):  # a loader's process that outlives its run must not hold the run's lock
    os.register_at_fork(after_in_child=lambda: [lock.close() for lock in _held])


@contextmanager
def claimed(path: Path, *, needed: bool = True) -> Iterator[bool]:
    """Yields whether this program has a lock now, which then names it.

    Where the system has no such locks (other than Unix) every program has it: only one should be started there.

    Args:
        path: Of the lock; it is there only while somebody has it.
        needed: Where the disk knows no locks, to go on with a warning is not enough.

    Raises:
        UsageError: If the disk knows no locks and one is needed.
        XPrunerError: If it cannot be written.
    """
    lock = _taken(path, needed)
    if lock is None:
        yield False
        return
    _held.add(lock)
    try:
        with suppress(OSError):  # a full disk: the lock holds all the same
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            lock.flush()
        yield True
    finally:
        _held.discard(lock)
        with suppress(OSError):
            path.unlink()
        with suppress(OSError):
            lock.close()


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Keeps other programs off a folder while the block runs; of the processes of one run the first does so for all.

    The folder is made where there is none, and removed if nothing was written into it.

    Raises:
        UsageError: If another program works in the folder, with who it is.
        XPrunerError: If the folder cannot be written.
    """
    if not PartialState().is_main_process:
        yield
        return
    path = folder / LOCK
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        with claimed(path, needed=False) as free:
            if not free:
                raise UsageError(
                    f"{folder} is in use by {_holder(path)}; wait until it ends, or choose another output."
                )
            yield
    finally:
        with suppress(OSError):
            for place in made:
                place.rmdir()


def _holder(path: Path) -> str:
    with suppress(OSError, UnicodeDecodeError):
        return path.read_text(encoding="utf-8").strip() or "another program"
    return "another program"


def _taken(path: Path, needed: bool) -> IO[str] | None:
    """Returns the open file of a lock that this program has now, or None where another has it."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = path.open("a", encoding="utf-8")
        except OSError as error:
            raise XPrunerError(f"Cannot write to {path.parent}: {error.strerror}; choose another output.") from error
        if not _lock(lock, path, needed):
            lock.close()
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                return lock
        lock.close()  # the file that was locked is gone: who had it before has just ended


def _lock(lock: IO[str], path: Path, needed: bool) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if needed:
            lock.close()
            raise UsageError(f"{path} cannot be locked ({error.strerror}); use a disk that has locks.") from error
        log.warning("%s has no locks (%s): nothing else may work in it meanwhile", path.parent, error.strerror)
    return True
