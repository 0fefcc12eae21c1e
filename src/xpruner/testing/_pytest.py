"""pytest, which is needed here alone."""

from typing import Any

from xpruner.errors import require

pytest: Any = require("pytest", "test with xpruner.testing", "dev")
