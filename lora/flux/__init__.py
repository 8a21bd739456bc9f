"""FLUX.1: its components and sizes; encode prompts, pack latents, predict velocities, sample images, in one record."""
