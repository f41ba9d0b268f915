"""Models in GGUF: files, metadata, tensor names and tokenizers."""
