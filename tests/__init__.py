"""Sentences about what the package does, each true of the real thing: no part of it is replaced by a stand-in."""
