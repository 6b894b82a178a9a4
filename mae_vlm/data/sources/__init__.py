"""One format per file; every source is a map-style collection of ``Sample`` (see ``base.Source``)."""
