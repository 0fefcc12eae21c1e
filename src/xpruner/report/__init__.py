"""One HTML page about a finished run, with all it needs inside."""
