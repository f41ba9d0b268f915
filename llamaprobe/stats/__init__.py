"""Statistics of values over a dataset: exact, mergeable, byte-identical for any order and
machine."""
