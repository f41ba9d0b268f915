"""Quantised weights in safetensors: one file for each format."""
