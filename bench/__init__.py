"""Benchmarks of speed and memory, one module per protocol, run by script/bench."""
