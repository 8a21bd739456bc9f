"""What each tool calls the layers of FLUX.1 and of its text encoders."""
