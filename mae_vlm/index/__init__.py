"""What a run makes of pictures and words: a folder as an index on disk, the answers found in it, classes told by their names."""
