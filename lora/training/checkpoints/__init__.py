"""Checkpoints on disk, and the state from which a training starts or resumes."""
