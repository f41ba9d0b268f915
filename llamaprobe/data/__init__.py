"""Datasets: sources of documents, and harvests of activations."""
