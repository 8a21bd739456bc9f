"""Tests of lora.reporting.trackers."""
