"""``xpruner export-config``: a preset with every option, as YAML that ``xpruner prune --config`` reads."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from xpruner.cli.options import parse
from xpruner.config import preset
from xpruner.files import write_text


@dataclass
class ExportOptions:
    """Which options to write, and where to.

    Attributes:
        preset: ``default`` or ``paper``.
        output: The file; absent, the YAML is printed.
    """

    preset: str = "default"
    output: str | None = None


def run(arguments: Sequence[str]) -> None:
    """Prints the resolved options of a preset, or writes them to a file.

    Raises:
        UsageError: If the preset is unknown.
        XPrunerError: If the file cannot be written.
    """
    options = parse("export-config", ExportOptions(), arguments)
    text = yaml.safe_dump(asdict(preset(options.preset)), sort_keys=False)
    if options.output is None:
        print(text, end="")
    else:
        write_text(Path(options.output).expanduser(), text)
