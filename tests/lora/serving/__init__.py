"""Serving: what is worn, and what was asked for."""
