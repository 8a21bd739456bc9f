"""Where weights come from: base models, LoRA references, LoRA files. Knows nothing of training or serving."""
