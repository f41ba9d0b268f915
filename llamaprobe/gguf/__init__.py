"""Models in GGUF: their files, metadata, names of tensors and tokenizers."""
