"""Closed-form least squares after surgery."""
