"""Tests of lora.training.memory."""
