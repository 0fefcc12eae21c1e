"""A run: its stages, its folder, and what it leaves."""
