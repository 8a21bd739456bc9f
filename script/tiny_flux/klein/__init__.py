"""What FLUX.2 [klein] needs of its own in the build: its networks, its tokenizer, its latents and its pipeline."""
