"""What belongs together: pictures and texts, over all processes."""
