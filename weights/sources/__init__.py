"""What each service calls a LoRA, and where it keeps the file. Knows no cache."""
