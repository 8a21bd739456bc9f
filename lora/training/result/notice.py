"""The NOTICE file of a LoRA: its base model, and the licence. Knows no file and no folder."""

from lora.training.result.known_bases import known_base


def notice(base: str) -> str:
    """The NOTICE file of a LoRA for this base, by its name in config.yaml."""
    found = known_base(base)
    first = f"This LoRA was trained on {found.usage.name}: it is a Derivative, which modifies that model."
    return f"{first}\n{found.terms.body}"
