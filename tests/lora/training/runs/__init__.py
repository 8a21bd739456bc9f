"""Tests of lora.training.runs."""
