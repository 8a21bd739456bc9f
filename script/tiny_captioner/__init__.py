"""Builds the embedded captioner: its pictures, its network, its training and its quality measures."""
