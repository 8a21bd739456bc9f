"""FLUX.1: load it, encode prompts, pack latents, predict velocities, sample images. Shared by training and serving."""
