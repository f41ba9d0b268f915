"""The weight files of a model: folders, tensors by name, opening."""
