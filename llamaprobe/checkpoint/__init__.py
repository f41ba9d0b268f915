"""The weights of a model in their files: folders, tensors by name, opening."""
