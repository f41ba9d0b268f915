"""The weights of a model where they lie: folders, tensors by name, what was opened."""
