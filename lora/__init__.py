"""Teach FLUX.1 a subject or a style, and draw with what was taught. Knows no Cog and no URL."""
