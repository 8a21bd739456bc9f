"""A page that generates with a LoRA: a Space on Hugging Face, or on your own machine."""
