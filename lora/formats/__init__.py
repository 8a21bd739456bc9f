"""The LoRA files of all known trainers, converted to one record of weight deltas."""
