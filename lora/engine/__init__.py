"""The engine: how a transformer that wears a LoRA computes fast and small in training. Knows no recipe and no plan."""
