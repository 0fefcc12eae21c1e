"""``xpruner prune``: the whole run, from a dense model to a small one."""

from collections.abc import Sequence

from xpruner.cli.options import parse, take
from xpruner.config import RunConfig, preset
from xpruner.config.settings import read_yaml


def run(arguments: Sequence[str]) -> None:
    """Prunes, or continues the run that lies in the output directory, and prints the figures of every stage.

    Raises:
        UsageError: If the request cannot be met.
        XPrunerError: If a stage fails; the same command continues the run.
    """
    config = read_options(arguments)
    from xpruner.cli.console import showing_log, tracing
    from xpruner.cli.tables import show_result
    from xpruner.run.pipeline import run_pipeline

    with showing_log(), tracing(config.output):
        result = run_pipeline(config)
    show_result(result.metrics, result.folder)


def read_options(arguments: Sequence[str]) -> RunConfig:
    """Returns the run that the flags and the files of ``--config`` ask for, laid over the preset that they name.

    Raises:
        UsageError: If a flag, a key or the preset is unknown, or a value has the wrong type.
    """
    files, rest = take("--config", arguments)
    presets, flags = take("--preset", rest)
    settings = {key: value for path in files for key, value in read_yaml(path, RunConfig).items()}
    name = presets[-1] if presets else settings.get("preset", "default")
    return parse("prune", preset(name), flags, {**settings, "preset": name})
