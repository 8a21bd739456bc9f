"""What was asked and what is chosen: inputs, presets, layers, noise and optimizers."""
