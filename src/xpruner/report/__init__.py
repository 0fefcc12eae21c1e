"""One HTML page about a finished run, with all it needs inside."""

from xpruner.report.page import write_report

__all__ = ["write_report"]
