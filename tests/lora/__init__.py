"""The rooms of lora/, one test file per module."""
