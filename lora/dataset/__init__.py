"""A user's archive becomes captioned images, and those become encoded examples."""
