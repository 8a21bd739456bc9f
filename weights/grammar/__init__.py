"""The grammar of LoRA references: parses a reference into a record. Knows no network."""
