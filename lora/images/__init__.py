"""Image files become upright RGB pictures, for training and for serving."""
