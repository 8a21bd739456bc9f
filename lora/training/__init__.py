"""Training: from encoded examples to LoRA weights."""
