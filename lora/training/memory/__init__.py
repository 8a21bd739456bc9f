"""The memory plan of a training."""
