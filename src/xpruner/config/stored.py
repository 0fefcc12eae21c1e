"""The configuration that a run wrote, read again."""

from pathlib import Path
from typing import Any

import yaml

from xpruner.config.options import RunConfig
from xpruner.files import reading
from xpruner.typed import typed

REMEDY = "it is the configuration of the run, so copy it again"


def read_config(path: Path) -> RunConfig:
    """Returns the configuration of a run; what is not there keeps its default.

    Raises:
        XPrunerError: If the file is missing or no YAML, a key is unknown, or a value has the wrong type.
    """
    values = stored_values(path)
    with reading(path, REMEDY):
        return typed(RunConfig, values)


def stored_values(path: Path) -> dict[str, Any]:
    """Returns the configuration of a run as the plain values that were written.

    Raises:
        XPrunerError: If the file is missing, or no YAML of keys and values.
    """
    with reading(path, REMEDY):
        try:
            return typed(dict[str, Any], yaml.safe_load(path.read_text(encoding="utf-8")))
        except yaml.YAMLError as error:
            raise ValueError(" ".join(str(error).split())) from error
