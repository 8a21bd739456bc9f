"""The names that each tool uses for the layers of each family of models and of their text encoders."""
