"""The names that FLUX.1 and FLUX.2 have in common, of the original models -> diffusers."""

DOUBLE_ATTENTION = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "img_attn.proj": ("attn.to_out.0",),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "txt_attn.proj": ("attn.to_add_out",),
}
DOUBLE_NORMS = {
    f"{stream}_attn.norm.{theirs}_norm": f"attn.norm_{added}{ours}"
    for stream, added in (("img", ""), ("txt", "added_"))
    for theirs, ours in (("query", "q"), ("key", "k"))
}
SINGLE_NORMS = {"norm.query_norm": "attn.norm_q", "norm.key_norm": "attn.norm_k"}
# The final modulation: in the original models the upper rows are the shift and the lower the scale; in diffusers it
# is the other way round.
ORIGINAL_FINAL_MODULATION, FINAL_MODULATION = "final_layer.adaLN_modulation.1", "norm_out.linear"
DOUBLE_BLOCKS, SINGLE_BLOCKS = "transformer_blocks", "single_transformer_blocks"  # in diffusers
# Models with the layer names of FLUX's double blocks, by the width of the attention's input
WIDTHS = {1536: "SD3", 2432: "SD3.5 Large"}
