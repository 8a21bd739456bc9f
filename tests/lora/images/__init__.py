"""Tests of lora.images: files, colors, masks and sizes."""
