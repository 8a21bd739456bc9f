"""Guess the model that an incompatible LoRA was made for, from the names and widths of its layers."""

import re
from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor

from lora.formats.layer_delta import weight_delta_of
from lora.formats.layer_names.flux1 import CONTROL
from lora.formats.layer_names.mapping import find_layer
from lora.formats.layer_names.record import LayerNames
from lora.formats.published_models import fit_of, published_model
from lora.formats.shapes import Shape
from lora.formats.tensor_keys import KEY, MATRIX, group_by_layer
from lora.formats.weight_deltas import LayerMapping

FLUX1 = "FLUX.1"
IS_NORM = re.compile(r"norm_(added_)?[qk]\.weight$")
# Patterns of tensor names -> model; the first pattern counts that matches any name which the own family does not have.
NAMES = (
    (r"(query|key)_norm\.scale$|\bnorm_(added_)?[qk]\.weight", CONTROL),
    (r"lora_te2_text_model|text_encoder_2\.text_model|label_emb|conditioner", "SDXL"),
    (r"(in|out)put_blocks|down_blocks|up_blocks|mid(dle)?_block|^unet\.", "Stable Diffusion"),
    (r"joint_blocks|context_block", "SD3"),
    (r"joint_transformer_blocks", "AuraFlow"),
    (r"(double|single)_stream_modulation|to_qkv_mlp_proj|linear_(in|out)\b", "FLUX.2"),
    (r"distilled_guidance_layer", "Chroma"),
    (r"double_stream_blocks|single_stream_blocks", "HiDream"),
    (r"img_mlp[._]fc|txt_mlp[._]fc|token_refiner|img_mod[._]linear|context_refiner\.blocks", "HunyuanVideo"),
    (r"img_mod[._]1\b|txt_mod[._]1\b|img_mlp[._]net|txt_mlp[._]net", "Qwen-Image"),
    (r"(^|[._])blocks[._]\d+[._](self_attn|cross_attn|ffn)|condition_embedder", "Wan"),
    (r"noise_refiner|layers[._]\d+[._](attention|feed_forward|adaLN)", "Lumina 2 or Z-Image"),
    (r"(^|[._])transformer_blocks[._]\d+[._]attn[12]", "LTX-Video or PixArt"),
    (r"(model|language_model)\.layers\.\d+\.(self_attn|mlp)\.", "a language model"),
    # in diffusers HunyuanVideo has the layer names of FLUX.1, and 40 single blocks
    (r"single_transformer_blocks[._](38|39)[._](proj_|attn[._]to_[qkv]\b)", "HunyuanVideo"),
    (r"single_transformer_blocks[._]\d+[._](proj_mlp|proj_out|attn[._]to_[qkv]\b)|processor\.(qkv|proj)_lora", FLUX1),
    (r"(img|txt)_mod[._]lin\b|single_blocks[._]\d+[._]modulation[._]lin\b|time_text_embed|vector_in", FLUX1),
)
# Stable Diffusion: the width of the text embeddings that attn2 gets.
TEXT_WIDTHS = {768: "Stable Diffusion 1.5", 1024: "Stable Diffusion 2", 2048: "SDXL"}
TEXT_LAYERS = re.compile(r"attn2[._]to_[kv]\b.*(lora_A|down)")
# The layers whose inputs are the hidden states, in models with the layer names of FLUX's double blocks.
TOKEN_LAYERS = re.compile(
    r"(attn[._](to_q|to_k|to_v|qkv|add_q_proj)|single_blocks[._]\d+[._]linear1)\b.*(lora_A|down)|_attn_qkv\.lora_down"
)
# The layers that the latents enter, and what is concatenated to them.
LATENT_LAYERS = re.compile(r"(x_embedder|img_in)\b.*(lora_A|down)")
# Weights of blocks in the checkpoint of a whole model, whose norms have the names of those in a Control LoRA.
WHOLE = re.compile(r"(?P<layer>(?:.+\.)?(?:\w*blocks\.\d+\..+|x_embedder|img_in))\.weight")


def foreign_model_hint(tensors: Mapping[str, Tensor], own: LayerNames) -> str:
    """The end of a sentence that names the model which a file was made for, if it was not made for the family `own`.
    Empty if the model is unknown."""
    if whole := _whole_shapes(tensors):
        return _hint(*_owners(whole, tensors, own))
    inputs = {key: tensor.shape[-1] for key, tensor in tensors.items() if tensor.ndim}
    shapes = _shapes(tensors)
    return _hint(
        None if fit_of(shapes, own) else published_model(shapes, own),
        _by_width(inputs, TEXT_LAYERS, TEXT_WIDTHS),
        _by_name(key for key in tensors if not _is_known(key, own)),
        _by_inputs(inputs, own),
    )


def incompatible_model_hint(shapes: Mapping[str, Shape], own: LayerNames) -> str:
    """The same for a LoRA with the layer names of the family `own`, but not of the model that it is to be used with:
    `shapes` are those of its weight deltas for the transformer, by layer. It may be for another model of the family."""
    inputs = {f"{layer}.lora_A": shape.inputs for layer, shape in shapes.items()}
    original = {own.original_name(layer): shape for layer, shape in shapes.items()}
    return _hint(published_model(original, own), _by_inputs(inputs, own))


def _owners(whole: Mapping[str, Shape], keys: Iterable[str], own: LayerNames) -> Iterator[str | None]:
    """The models that the checkpoint of a whole model may be of, if it is of another family than `own`."""
    if not fit_of(whole, own):
        yield published_model(whole, own)
        yield _by_name(key for key in keys if key.endswith(".weight") and not IS_NORM.search(key))


def _whole_shapes(tensors: Mapping[str, Tensor]) -> dict[str, Shape]:
    """The shapes of the whole weights of blocks, by layer; a LoRA has none."""
    matrices = {key: tensor for key, tensor in tensors.items() if tensor.ndim == MATRIX and not KEY.fullmatch(key)}
    found = ((WHOLE.fullmatch(key), *matrix.shape) for key, matrix in matrices.items())
    return {match["layer"]: Shape(columns, rows) for match, rows, columns in found if match}


def _hint(*guesses: str | None) -> str:
    return next((f" (it was made for {model})" for model in guesses if model), "")


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, Shape]:
    """The shapes of the weights that a file changes, by layer; empty if a layer's cannot be read."""
    try:
        layers = [layer for layer in group_by_layer(tensors).layers if not layer.is_zero]
        deltas = {layer.name: weight_delta_of(layer, LayerMapping("transformer", ())) for layer in layers}
    except ValueError:
        return {}
    return {name: delta.shape for name, delta in deltas.items() if delta}


def _is_known(key: str, names: LayerNames) -> bool:
    """Whether a tensor is of a layer that the family has: then its name does not tell of another model."""
    match = KEY.fullmatch(key)
    return match is not None and find_layer(match["layer"], names) is not None


def _by_name(keys: Iterable[str]) -> str | None:
    keys = tuple(keys)
    return next((model for pattern, model in NAMES if any(re.search(pattern, key) for key in keys)), None)


def _by_inputs(inputs: Mapping[str, int], own: LayerNames) -> str | None:
    return _by_width(inputs, LATENT_LAYERS, own.latent_channels) or _by_width(inputs, TOKEN_LAYERS, own.widths)


def _by_width(inputs: Mapping[str, int], layers: re.Pattern[str], models: Mapping[int, str]) -> str | None:
    widths = (width for key, width in inputs.items() if layers.search(key))
    return next((models[width] for width in widths if width in models), None)
