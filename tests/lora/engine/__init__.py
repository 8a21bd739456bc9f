"""The engine computes what diffusers and PEFT compute."""
