"""Trains LoRAs for FLUX.1 and FLUX.2 [klein], and generates images with them. Knows no Cog and no URL."""

import logging

# Warns, when it is first imported, that a kernel is missing which speeds up 4-bit layers on a CPU.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
