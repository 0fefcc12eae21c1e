"""Adapters of timm's families."""
