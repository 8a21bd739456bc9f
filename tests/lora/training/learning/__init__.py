"""Tests of lora.training.learning."""
