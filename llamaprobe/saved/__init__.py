"""Runs and weights as folders: written, resumed, read back."""
