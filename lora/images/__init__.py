"""Decodes image files into upright RGB images, for training and for serving."""
