"""Arrays to files of numbers and back: csv, txt, npy, hex, json; written atomically."""
