"""FLUX itself: our layout and our question, held against the diffusers pipeline."""
