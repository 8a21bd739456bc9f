"""The families of base models, and loading a base of any of them from its folder."""
