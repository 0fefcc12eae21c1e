"""The command line: one module per sub-command, imported once it is chosen."""

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module

from xpruner import __version__
from xpruner.errors import FULL_DISK, UsageError, XPrunerError, unknown
from xpruner.text import printable

COMMANDS = {
    "prune": ("xpruner.cli.prune", "Prune a trained model to a budget, compensate and fine-tune it."),
    "evaluate": ("xpruner.cli.evaluate", "Measure the accuracy, cost and latency of a model."),
    "inspect": ("xpruner.cli.inspect", "List what can be pruned in a model and what it costs."),
    "compare": ("xpruner.cli.compare", "Run methods side by side under one protocol, as a YAML file describes."),
    "report": ("xpruner.cli.report", "Make an HTML page about a run, or tables and plots of a comparison."),
    "explain": ("xpruner.cli.explain", "Explain units, classes and images of a run, and how far to trust that."),
    "explore": ("xpruner.cli.explore", "Open a page in which budgets, classes and images are tried on a run."),
    "specialise": ("xpruner.cli.specialise", "Build a model for some classes of a run, without learning masks again."),
    "export-config": ("xpruner.cli.export_config", "Write every option of a preset as YAML, to edit and to prune by."),
    "demo": ("xpruner.cli.demo", "Train and prune a small model on handwritten digits, in about two minutes."),
}
INTERRUPTED = 130  # what a shell reports for a program stopped by Ctrl-C


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one sub-command and returns the exit status: 0, 1 for a failure, 2 for a wrong request, 130 for Ctrl-C.

    Args:
        arguments: Those of the process when absent.
    """
    _prepare_streams()
    try:
        _dispatch(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
        return 0
    except BrokenPipeError:  # the reader of our output has seen enough, as in `xpruner inspect | head`
        _drop_output()
        return 1
    except KeyboardInterrupt:
        return _report("stopped; the same command continues from here.", INTERRUPTED)
    except XPrunerError as error:
        return _report(f"error: {error}", error.exit_code)
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            _drop_output()
            return _report(f"error: {FULL_DISK}", 1)
        what = f"{type(error).__name__} ({error})"
        return _report(f"error: An unexpected {what}; set XPRUNER_DEBUG=1 to see where it comes from.", 1)
    finally:
        _leave_process_group()


def usage() -> str:
    """Returns what ``xpruner --help`` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: xpruner [--help] [--version] COMMAND [flags]",
            "",
            "Explainable structured pruning of vision transformers.",
            "",
            "commands:",
            *lines,
            "",
            "`xpruner COMMAND --help` lists the flags of a command.",
        ]
    )


def _dispatch(arguments: list[str]) -> None:
    name = arguments[0] if arguments else None
    if name is None:
        raise UsageError(f"No command is given; choose one of {', '.join(COMMANDS)}, or ask for --help.")
    if name in ("-h", "--help"):
        print(usage())
    elif name == "--version":
        print(f"xpruner {__version__}")
    elif name in COMMANDS:
        import_module(COMMANDS[name][0]).run(arguments[1:])
    elif name.startswith("-"):
        raise unknown("flag", name, ["--help", "--version"])
    else:
        raise unknown("command", name, COMMANDS)


def _report(text: str, status: int) -> int:
    """Prints one line on stderr, with the traceback before it when XPRUNER_DEBUG is 1; returns the status."""
    if os.environ.get("XPRUNER_DEBUG") == "1":
        traceback.print_exc()
    with suppress(OSError):
        print("xpruner:", printable(" ".join(text.split())), file=sys.stderr)
    return status


def _prepare_streams() -> None:
    """Lets output that is closed go nowhere, and writes out characters that the encoding of a stream lacks."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115 - for the rest of the program
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """Lets what could not be written to stdout go nowhere, so that the end of the program does not try again."""
    with suppress(OSError):  # a stream without a file has nothing to drop
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _leave_process_group() -> None:
    """Ends torch's process group, where this is one of several processes, so that none warns about it or hangs."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        from accelerate import PartialState

        PartialState().destroy_process_group()
