"""How a transformer computes: precision, streaming, checkpointing, compilation, fused LoRA layers. Knows no FLUX."""
