"""HTTP requests to servers that are not trusted. Knows no LoRA and no cache."""
