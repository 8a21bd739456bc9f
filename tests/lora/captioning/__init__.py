"""Tests of lora.captioning."""
