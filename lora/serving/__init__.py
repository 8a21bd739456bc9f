"""A request becomes images. Knows no training."""
