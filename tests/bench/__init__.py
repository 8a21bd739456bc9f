"""Tests of bench/, one file per module."""
