"""Tests of lora.training.result."""
