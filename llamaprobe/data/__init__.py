"""Datasets: where documents come from, and harvests of their activations."""
