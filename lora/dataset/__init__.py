"""Reads a user's archive into captioned images, and encodes those into examples for training."""
