"""Where a LoRA goes: its model card, and its repository on Hugging Face. Knows no training and no tar."""
