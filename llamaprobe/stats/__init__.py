"""Statistics of values over a dataset: exact, mergeable, the same bytes for any order and machine."""
