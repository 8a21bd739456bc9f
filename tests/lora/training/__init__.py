"""Tests of lora.training."""
