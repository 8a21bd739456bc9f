"""Predict the velocity of noisy latents with the transformer."""

from collections.abc import Mapping

import torch
from diffusers import Flux2Transformer2DModel
from torch import Tensor

from lora.base.prompt import Prompt
from lora.base.transformer import embedder_weight
from lora.flux2.latents import pack, unpack

REFERENCE_SPACING = 10  # between images on the first axis of positions, as in Flux2KleinPipeline


def predict_velocity(
    transformer: Flux2Transformer2DModel,
    noisy: Tensor,
    *,
    sigmas: Tensor,
    prompt: Prompt,
    guidance: float,  # noqa: ARG001 (klein has no guidance embedding: it learns the velocity that guidance starts from)
    references: tuple[Tensor, ...] = (),
) -> Tensor:
    """The predicted velocity [B, C, H, W] for noisy latents [B, C, H, W] and sigmas [B] in 0..1, beside the clean
    latents of reference images [B, C, H, W], each of its own height and width.

    All tensors are on the transformer's device, and `prompt` is a batch of B. The result has the precision in which the
    transformer computes. The transformer itself multiplies sigma by 1000 and casts it to its own precision, so it is
    passed unscaled, in fp32. The keywords are those of `Flux2KleinPipeline`.
    """
    batch, _, height, width = noisy.shape
    dtype = embedder_weight(transformer).dtype
    inputs = {
        "hidden_states": pack(noisy).to(dtype),
        "img_ids": positions(batch, height=height, width=width, device=noisy.device),
    }
    predicted = transformer(
        **(with_references(inputs, references) if references else inputs),
        timestep=sigmas,
        guidance=None,
        encoder_hidden_states=prompt.tokens.to(dtype),
        txt_ids=positions(batch, text=prompt.tokens.shape[1], device=noisy.device),
        joint_attention_kwargs=None,
        return_dict=False,
    )[0]
    return unpack(predicted[:, : height * width], height=height, width=width)


def with_references(inputs: Mapping[str, Tensor], references: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """The `hidden_states` [B, N, C] and `img_ids` [B, N, 4] of the transformer's inputs, followed by the tokens and
    positions of reference images, whose latents are [B, C, H, W] or [1, C, H, W].

    As in `Flux2KleinPipeline.prepare_image_latents`, all tokens of a reference image have a position of their own on
    the first axis: 10, 20, ... Of the transformer's output, only the first N tokens belong to the noisy image.
    """
    tokens, ids = inputs["hidden_states"], inputs["img_ids"]
    batch = len(tokens)
    added = [pack(reference).to(tokens).expand(batch, -1, -1) for reference in references]
    added_ids = [
        positions(batch, image=number * REFERENCE_SPACING, height=height, width=width, device=ids.device)
        for number, (height, width) in enumerate((reference.shape[2:] for reference in references), start=1)
    ]
    return {"hidden_states": torch.cat([tokens, *added], dim=1), "img_ids": torch.cat([ids, *added_ids], dim=1)}


def positions(
    batch: int, *, image: int = 0, height: int = 1, width: int = 1, text: int = 1, device: torch.device
) -> Tensor:
    """The position of each token on the four axes image, row, column and text, [B, N, 4] int64: of an image of `height`
    x `width` tokens, which is at `image` on the first axis, or of `text` tokens."""
    first = torch.full((1,), image, device=device)
    axes = [first, *(torch.arange(length, device=device) for length in (height, width, text))]
    return torch.cartesian_prod(*axes).expand(batch, -1, -1)
