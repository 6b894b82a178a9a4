"""Features become answers: one kind of head per file."""
