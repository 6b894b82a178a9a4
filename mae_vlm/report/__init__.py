"""A run folder read back: what was recorded, what is to be said about it, and the page that says it. Needs no torch."""
