"""The names that each tool uses for the layers of FLUX.1 and of its text encoders."""
