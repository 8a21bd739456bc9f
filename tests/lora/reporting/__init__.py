"""Tests of lora.reporting: the report page and its chart."""
