"""Saved runs against what follows from their tokens and their model."""
