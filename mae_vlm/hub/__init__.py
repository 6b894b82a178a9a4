"""What a run hands out: where to, what may go along, under which licence, described by which card."""
