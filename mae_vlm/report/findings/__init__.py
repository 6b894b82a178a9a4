"""What may be wrong with a run: one check a question, each a pure function of what was recorded."""
