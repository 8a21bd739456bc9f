"""The rooms of bench/, one test file per module."""
