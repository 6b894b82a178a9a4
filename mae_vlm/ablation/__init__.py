"""Small runs side by side: which choice earned its cost on this data. No torch: every run is a ``fit`` in a process of its own."""
