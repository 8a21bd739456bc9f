"""FLUX itself: our loading, latents and velocity, compared with the pipeline of diffusers."""
