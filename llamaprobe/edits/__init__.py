"""Edits of a run: recorded assignments, and how they apply to the rows of one prompt."""
