"""Text from outside, such as names of classes and files, made safe to be shown."""

import re

_HIDDEN = re.compile(
    "["
    "\x00-\x1f\x7f-\x9f"  # control characters: escapes of a terminal, new lines
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks that turn the direction of what stands behind them
    "\u2028\u2029"  # new lines and paragraphs of Unicode
    "\ud800-\udfff"  # bytes of a file name that are not UTF-8, as Python holds them
    "]"
)


def printable(text: str) -> str:
    r"""Returns a text with what would steer a terminal or a page instead of being seen written out, such as ``\x1b``.

    New lines and tabs are written out as well: a name has none that a reader should take for a line of ours.
    """
    return _HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def printable_lines(text: str) -> str:
    """Returns a text of several lines with each of them made printable."""
    return "\n".join(map(printable, text.split("\n")))
