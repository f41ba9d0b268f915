"""What a model would say in between (a lens), and which of its parts said what (attribution)."""
