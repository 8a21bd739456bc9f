"""Speed and memory, measured: one module per protocol, run by script/bench."""
