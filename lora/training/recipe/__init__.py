"""The recipe of a training: checked inputs, presets, layers, noise levels and optimizers."""
