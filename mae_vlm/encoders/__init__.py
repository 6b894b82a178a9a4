"""Tokens become features."""
