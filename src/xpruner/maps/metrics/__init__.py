"""How faithful maps are, and how well two agree."""
