"""Training: encoded examples become LoRA weights."""
