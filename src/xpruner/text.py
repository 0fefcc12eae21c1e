"""Escapes text from outside, such as names of classes and files, for display."""

import re

_HIDDEN = re.compile(
    "["
    "\x00-\x1f\x7f-\x9f"  # control characters: escapes of a terminal, new lines
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks that change the writing direction
    "\u2028\u2029"  # new lines and paragraphs of Unicode
    "\ud800-\udfff"  # bytes of a file name that are not UTF-8, as Python holds them
    "]"
)


def printable(text: str) -> str:
    r"""Returns a text with control characters of terminals and pages escaped, such as ``\x1b``.

    New lines and tabs are escaped too, so that a name cannot imitate a line of the program.
    """
    return _HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def printable_lines(text: str) -> str:
    """Returns a text of several lines with each of them made printable."""
    return "\n".join(map(printable, text.split("\n")))
