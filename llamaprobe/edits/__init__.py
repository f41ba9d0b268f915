"""Edits of a run: assignments that are recorded, and what they mean for the rows of one prompt."""
