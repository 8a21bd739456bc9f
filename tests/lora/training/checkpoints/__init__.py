"""Tests of lora.training.checkpoints."""
