"""Loss becomes a step."""
