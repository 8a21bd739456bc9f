"""Generates the images of a request. Knows no training."""
