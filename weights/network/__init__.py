"""Asking other machines, as somebody who trusts none of them. Knows no LoRA and no cache."""
