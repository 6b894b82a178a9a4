"""Pictures and words become tokens."""
