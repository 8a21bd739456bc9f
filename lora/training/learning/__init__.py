"""Tensors in, LoRA weights out."""
