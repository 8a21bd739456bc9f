"""Learning: from encoded tensors to LoRA weights."""
