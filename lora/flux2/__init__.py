"""FLUX.2 [klein]: its components, prompts, latents, velocity and sampling, in the record of a family."""
