"""Tests of lora.dataset: archives, captions, images and sizes."""
