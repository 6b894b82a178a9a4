"""Features become loss terms: one training signal per file."""
