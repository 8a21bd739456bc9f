"""LoRA files in every layout, each written by its trainer's own rule, with the weight deltas that they stand for.

The tables are written independently of the code, from BFL's model.py, x-flux's layers.py, diffusers'
convert_flux_to_diffusers.py and its conversion of FLUX.2 checkpoints (loaders/single_file_utils.py).
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lora.formats.shapes import Shape

DOUBLE = {
    "img_mod.lin": ["norm1.linear"],
    "txt_mod.lin": ["norm1_context.linear"],
    "img_attn.qkv": ["attn.to_q", "attn.to_k", "attn.to_v"],
    "txt_attn.qkv": ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"],
    "img_attn.proj": ["attn.to_out.0"],
    "txt_attn.proj": ["attn.to_add_out"],
    "img_mlp.0": ["ff.net.0.proj"],
    "img_mlp.2": ["ff.net.2"],
    "txt_mlp.0": ["ff_context.net.0.proj"],
    "txt_mlp.2": ["ff_context.net.2"],
}
SINGLE = {
    "modulation.lin": ["norm.linear"],
    "linear1": ["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"],
    "linear2": ["proj_out"],
}
OUTSIDE = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
    "final_layer.linear": "proj_out",
}
FLUX2_DOUBLE = {
    **{layer: DOUBLE[layer] for layer in ("img_attn.qkv", "txt_attn.qkv", "img_attn.proj", "txt_attn.proj")},
    "img_mlp.0": ["ff.linear_in"],
    "img_mlp.2": ["ff.linear_out"],
    "txt_mlp.0": ["ff_context.linear_in"],
    "txt_mlp.2": ["ff_context.linear_out"],
}
FLUX2_SINGLE = {"linear1": ["attn.to_qkv_mlp_proj"], "linear2": ["attn.to_out"]}
FLUX2_OUTSIDE = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_guidance_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_guidance_embed.timestep_embedder.linear_2",
    "guidance_in.in_layer": "time_guidance_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_guidance_embed.guidance_embedder.linear_2",
    "double_stream_modulation_img.lin": "double_stream_modulation_img.linear",
    "double_stream_modulation_txt.lin": "double_stream_modulation_txt.linear",
    "single_stream_modulation.lin": "single_stream_modulation.linear",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
    "final_layer.linear": "proj_out",
}
XLABS = {
    "double_blocks.{}.processor.qkv_lora1": ("transformer_blocks.{}.", DOUBLE["img_attn.qkv"]),
    "double_blocks.{}.processor.qkv_lora2": ("transformer_blocks.{}.", DOUBLE["txt_attn.qkv"]),
    "double_blocks.{}.processor.proj_lora1": ("transformer_blocks.{}.", DOUBLE["img_attn.proj"]),
    "double_blocks.{}.processor.proj_lora2": ("transformer_blocks.{}.", DOUBLE["txt_attn.proj"]),
    "single_blocks.{}.processor.qkv_lora": ("single_transformer_blocks.{}.", SINGLE["linear1"][:3]),
    "single_blocks.{}.processor.proj_lora": ("single_transformer_blocks.{}.", ["proj_out"]),
}
RANK, ALPHA = 3, 2.0  # alpha / rank is no power of 2, and not 1

Shapes = dict[str, Shape]
# Of each layer: its name in the file, without prefix, and the names of its parts in diffusers.
Layers = Iterator[tuple[str, list[str]]]
Written = tuple[dict[str, Tensor], Callable[[], Tensor]]  # tensors, and a function that computes their delta in fp64
Decomposition = Callable[[str, int, int, torch.Generator], Written]


@dataclass(frozen=True)
class WrittenLora:
    """A file, and the delta of each layer of diffusers at strength 1, in fp64."""

    tensors: dict[str, Tensor]
    deltas: dict[str, Tensor]


def bfl_layers(shapes: Shapes) -> Layers:
    """The layers of the original FLUX.1 or FLUX.2, with dots, that a model of these shapes has."""
    is_flux2 = "double_stream_modulation_img.linear" in shapes
    for kind, theirs, table in (
        ("double_blocks", "transformer_blocks", FLUX2_DOUBLE if is_flux2 else DOUBLE),
        ("single_blocks", "single_transformer_blocks", FLUX2_SINGLE if is_flux2 else SINGLE),
    ):
        for index in range(38):
            for layer, parts in table.items():
                names = [f"{theirs}.{index}.{part}" for part in parts]
                if names[0] in shapes:
                    yield f"{kind}.{index}.{layer}", names
    outside = FLUX2_OUTSIDE if is_flux2 else OUTSIDE
    yield from ((ours, [theirs]) for ours, theirs in outside.items() if theirs in shapes)


def onetrainer_layers(shapes: Shapes) -> Layers:
    """The layers of the original FLUX.1, but with the parts of fused layers numbered and separate."""
    for layer, parts in bfl_layers(shapes):
        if len(parts) > 1:
            yield from ((f"{layer}.{number}", [part]) for number, part in enumerate(parts))
        else:
            yield "img_in.proj" if layer == "img_in" else layer, parts


def xlabs_layers(shapes: Shapes) -> Layers:
    """The layers that x-flux trains."""
    for index in range(38):
        for layer, (block, parts) in XLABS.items():
            names = [f"{block.format(index)}{part}" for part in parts]
            if names[0] in shapes:
                yield layer.format(index), names


def diffusers_layers(shapes: Shapes) -> Layers:
    """All linear layers, none of them fused."""
    return ((name, [name]) for name in shapes)


def fused_diffusers_layers(shapes: Shapes) -> Layers:
    """All linear layers after `fuse_qkv_projections`, which replaces to_q and those of the text."""
    for name in shapes:
        block, _, part = name.rpartition("attn.")
        if part == "to_q":
            yield f"{block}attn.to_qkv", [f"{block}{each}" for each in DOUBLE["img_attn.qkv"]]
        elif part == "add_q_proj":
            yield f"{block}attn.to_added_qkv", [f"{block}{each}" for each in DOUBLE["txt_attn.qkv"]]
        elif part not in ("to_k", "to_v", "add_k_proj", "add_v_proj"):
            yield name, [name]


def randn(generator: torch.Generator, *size: int) -> Tensor:
    return torch.randn(size, generator=generator)


def low_rank(down: str, up: str, *, alpha: float | None = None) -> Decomposition:
    """A decomposition into two matrices: the delta is up @ down, times alpha / rank if alpha is given."""

    def write(name: str, rows: int, columns: int, generator: torch.Generator) -> Written:
        a, b = randn(generator, RANK, columns), randn(generator, rows, RANK)
        tensors = {f"{name}.{down}": a, f"{name}.{up}": b}
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(alpha)
        return tensors, lambda: (1.0 if alpha is None else alpha / RANK) * (b.double() @ a.double())

    return write


def loha(name: str, rows: int, columns: int, generator: torch.Generator) -> Written:
    """(w1_a w1_b) * (w2_a w2_b) alpha / rank, as in LyCORIS."""
    w1_a, w2_a = randn(generator, rows, RANK), randn(generator, rows, RANK)
    w1_b, w2_b = randn(generator, RANK, columns), randn(generator, RANK, columns)
    tensors = {f"{name}.hada_w1_a": w1_a, f"{name}.hada_w1_b": w1_b, f"{name}.hada_w2_a": w2_a}
    tensors |= {f"{name}.hada_w2_b": w2_b, f"{name}.alpha": torch.tensor(ALPHA)}
    return tensors, lambda: (w1_a.double() @ w1_b.double()) * (w2_a.double() @ w2_b.double()) * ALPHA / RANK


def lokr(name: str, rows: int, columns: int, generator: torch.Generator) -> Written:
    """kron(w1, w2_a w2_b) alpha / rank, as in LyCORIS with the factor 4."""
    w1 = randn(generator, 4, 4)
    w2_a, w2_b = randn(generator, rows // 4, RANK), randn(generator, RANK, columns // 4)
    tensors = {f"{name}.lokr_w1": w1, f"{name}.lokr_w2_a": w2_a, f"{name}.lokr_w2_b": w2_b}
    tensors |= {f"{name}.alpha": torch.tensor(ALPHA)}
    return tensors, lambda: torch.kron(w1.double(), w2_a.double() @ w2_b.double()) * ALPHA / RANK


PEFT = low_rank("lora_A.weight", "lora_B.weight")
KOHYA = low_rank("lora_down.weight", "lora_up.weight", alpha=ALPHA)


@dataclass(frozen=True)
class Layout:
    """How a trainer names layers and writes their deltas."""

    layers: Callable[[Shapes], Layers]
    named: Callable[[str], str]  # a dotted layer's name in the file
    decomposition: Decomposition

    def make(self, shapes: Shapes, *, only: str = "") -> WrittenLora:
        """A LoRA on all layers of the layout whose dotted name matches the pattern `only`. The final modulation of the
        original FLUX.1 has the shift before the scale."""
        tensors, deltas = {}, {}
        for layer, parts, (written, delta) in self._layers(shapes, only):
            whole = delta()
            if layer == "final_layer.adaLN_modulation.1":
                shift, scale = whole.chunk(2)
                whole = torch.cat([scale, shift])
            tensors |= written
            deltas |= dict(zip(parts, whole.split([shapes[part].outputs for part in parts]), strict=True))
        return WrittenLora(tensors, deltas)

    def tensors(self, shapes: Shapes, *, only: str = "") -> dict[str, Tensor]:
        """The tensors of the same file, without its deltas, which are large at full width."""
        return {name: tensor for _, _, (written, _) in self._layers(shapes, only) for name, tensor in written.items()}

    def _layers(self, shapes: Shapes, only: str) -> Iterator[tuple[str, list[str], Written]]:
        generator = torch.Generator().manual_seed(0)
        for layer, parts in self.layers(shapes):
            if re.search(only, layer):
                rows = sum(shapes[part].outputs for part in parts)
                yield layer, parts, self.decomposition(self.named(layer), rows, shapes[parts[0]].inputs, generator)


def with_underscores(prefix: str) -> Callable[[str], str]:
    return lambda layer: prefix + layer.replace(".", "_")


LAYOUTS = {
    "diffusers": Layout(diffusers_layers, "transformer.{}".format, PEFT),
    "diffusers without a prefix": Layout(diffusers_layers, "{}".format, PEFT),
    "diffusers by ComfyUI": Layout(diffusers_layers, "diffusion_model.{}".format, PEFT),
    "diffusers with alphas": Layout(
        diffusers_layers, "transformer.{}".format, low_rank("lora_A.weight", "lora_B.weight", alpha=ALPHA)
    ),
    "PEFT with the adapter's name": Layout(
        diffusers_layers, "base_model.model.{}".format, low_rank("lora_A.default.weight", "lora_B.default.weight")
    ),
    "old diffusers": Layout(diffusers_layers, "transformer.{}".format, low_rank("lora.down.weight", "lora.up.weight")),
    "kohya": Layout(bfl_layers, with_underscores("lora_unet_"), KOHYA),
    "kohya without alphas": Layout(
        bfl_layers, with_underscores("lora_unet_"), low_rank("lora_down.weight", "lora_up.weight")
    ),
    "ComfyUI": Layout(bfl_layers, "diffusion_model.{}".format, KOHYA),
    "BFL": Layout(bfl_layers, "{}".format, PEFT),
    "BFL's checkpoint": Layout(bfl_layers, "model.diffusion_model.{}".format, PEFT),
    "BFL by ComfyUI": Layout(bfl_layers, "diffusion_model.{}".format, PEFT),
    "fal": Layout(bfl_layers, "base_model.model.{}".format, PEFT),
    "XLabs": Layout(xlabs_layers, "{}".format, low_rank("down.weight", "up.weight")),
    "XLabs by ComfyUI": Layout(xlabs_layers, "diffusion_model.{}".format, low_rank("down.weight", "up.weight")),
    "OneTrainer": Layout(diffusers_layers, with_underscores("lora_transformer_"), KOHYA),
    "OneTrainer with dots": Layout(onetrainer_layers, "transformer.{}".format, KOHYA),
    "LoHa by kohya": Layout(bfl_layers, with_underscores("lora_unet_"), loha),
    "LoHa by LyCORIS": Layout(diffusers_layers, with_underscores("lycoris_"), loha),
    "LoKr by kohya": Layout(bfl_layers, with_underscores("lora_unet_"), lokr),
    "LoKr by LyCORIS": Layout(diffusers_layers, with_underscores("lycoris_"), lokr),
    "LoKr by ai-toolkit": Layout(diffusers_layers, "transformer.{}".format, lokr),
}
# x-flux trains only FLUX.1, and OneTrainer has the names of diffusers for FLUX.2. Other tools share their names:
# musubi-tuner writes "kohya", ai-toolkit "BFL by ComfyUI".
FLUX2_LAYOUTS = {
    **{name: layout for name, layout in LAYOUTS.items() if "XLabs" not in name and name != "OneTrainer with dots"},
    "OneTrainer with dots": Layout(diffusers_layers, "transformer.{}".format, KOHYA),
    "fused by diffusers": Layout(fused_diffusers_layers, "transformer.{}".format, PEFT),
    "LoKr by ai-toolkit": Layout(bfl_layers, "diffusion_model.{}".format, lokr),
    "LoKr fused by diffusers": Layout(fused_diffusers_layers, "transformer.{}".format, lokr),
}
