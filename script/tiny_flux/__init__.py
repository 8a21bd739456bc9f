"""Builds the embedded base model: the images of its world, its networks, its training and its quality measures."""
