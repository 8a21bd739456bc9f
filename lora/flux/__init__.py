"""The model itself: load it, lay out its latents, ask it one question. Shared by training and serving."""
