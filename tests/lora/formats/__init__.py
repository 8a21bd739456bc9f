"""LoRA files in every layout, read and written."""
