"""Sweeps: many edited runs of one prompt, with common work done once."""
