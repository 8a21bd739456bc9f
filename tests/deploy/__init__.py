"""Tests of deploy, which they mirror."""
