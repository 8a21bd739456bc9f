"""How each service names a LoRA and where it stores the file. Knows no cache."""
