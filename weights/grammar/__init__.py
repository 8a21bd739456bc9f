"""How a person may name a LoRA. Knows no network: a reference becomes a record, and nobody is asked."""
