"""Sweeps: many edited runs of one prompt, which share all work that they have in common."""
