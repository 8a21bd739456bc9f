"""Encoded examples become LoRA weights."""
