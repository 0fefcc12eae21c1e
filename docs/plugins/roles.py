"""An extension of griffe: the Sphinx roles in docstrings become links of the site, or code where there is no target."""

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:func|class|meth|data|attr|mod):`~?(\.?[\w.]+)`")


class Roles(griffe.Extension):
    """Rewrites the docstring of every object once it is read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrites one docstring."""
        if obj.docstring:
            obj.docstring.value = ROLE.sub(_link, obj.docstring.value)


def _link(role: re.Match[str]) -> str:
    name = role[1].lstrip(".")
    return f'<autoref optional identifier="{name}"><code>{name.split(".")[-1]}</code></autoref>'
