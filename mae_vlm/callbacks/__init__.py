"""Logs and checkpoint: what watches a run and keeps it."""
