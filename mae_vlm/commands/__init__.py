"""The verbs that don't train: one file each, no torch before it is needed."""
