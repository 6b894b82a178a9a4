"""What several heads and the probes share, as plain functions."""
