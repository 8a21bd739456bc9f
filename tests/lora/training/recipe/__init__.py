"""Tests of lora.training.recipe."""
