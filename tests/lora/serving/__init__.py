"""Tests of lora.serving."""
