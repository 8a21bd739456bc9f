"""Which components of FLUX are on a GPU of a given size, and when a GPU is too small."""

from itertools import pairwise

import pytest
import torch
from diffusers import FluxTransformer2DModel

from lora.engine.options import spaced_block_indices
from lora.families.placement import bytes_of_components, device_map
from lora.flux.dimensions import dimensions_of
from tests.tiny import FLUX_DEV_CONFIG, TINY_FLUX, assert_one_sentence, save_transformer, tiny_pipeline

GIB = 2**30
# As published, in bf16: 11.9, 4.76, 0.12 and 0.08 billion numbers.
FLUX = {
    "transformer": 23_802_816_640,
    "text_encoder_2": 9_524_621_312,
    "text_encoder": 246_120_960,
    "vae": 167_639_366,
}
# About what a CUDA context leaves free of a card that is not otherwise in use.
H100, A6000, A100_40, RTX_5090, RTX_4090 = 78.6 * GIB, 47.0 * GIB, 39.0 * GIB, 31.2 * GIB, 23.3 * GIB
ENCODERS = ("text_encoder", "text_encoder_2")
ALL = {"transformer", "vae", "text_encoder", "text_encoder_2"}


DEV = dimensions_of(FLUX_DEV_CONFIG)


def devices(free):
    return device_map(FLUX, DEV, text_encoders=ENCODERS, weight_bytes=2, free_bytes=int(free))


@pytest.mark.parametrize(
    ("free", "on_gpu"),
    [
        (H100, ALL),
        (A6000, ALL),
        (A100_40, ALL),
        (RTX_5090, ALL - {"text_encoder_2"}),
        (38.75e9, ALL),  # 33.74 GB, and 5 for generation
        (38.7e9, ALL - {"text_encoder_2"}),
        (29.22e9, ALL - {"text_encoder_2"}),
        (29.2e9, {"transformer", "vae"}),
        (28.98e9, {"transformer", "vae"}),
    ],
)
def test_text_encoders_are_offloaded_if_memory_is_short(free, on_gpu):
    assert set(devices(free).on_gpu) == on_gpu
    assert devices(free).streamed_blocks == 0


def test_then_as_few_blocks_stream_as_possible():
    counts = [devices(free).streamed_blocks for free in (28.9e9, RTX_4090, 16e9, 12e9, 8e9)]
    assert all(0 < few < many < 57 for few, many in pairwise(counts))
    for free in (RTX_4090, 12e9):
        found = devices(free)
        assert needed(found.streamed_blocks) <= free < needed(found.streamed_blocks - 1)
        assert set(found.on_gpu) == {"transformer", "vae"}


def needed(streamed):
    """In bytes: weights of blocks that stay, buffers for two of the largest that stream, the rest of the model,
    and memory for generation."""
    sizes = [339_800_000] * 19 + [141_600_000] * 38  # weights of linear layers
    offloaded = [sizes[index] for index in spaced_block_indices(streamed, of=57)]
    return FLUX["transformer"] + FLUX["vae"] + 5e9 - 2 * (sum(offloaded) - 2 * max(offloaded))


@pytest.mark.parametrize(("free", "found"), [(6.5e9, "6.1 GiB"), (0, "0.0 GiB")])
def test_a_gpu_too_small_for_streamed_blocks_is_refused_with_the_memory_required(free, found):
    with pytest.raises(MemoryError) as error:
        devices(free)
    assert_one_sentence(error.value, f"the GPU has {found} of free memory: expected at least 6.2 GiB", "4.7 GiB are")


def test_the_bytes_of_components_are_those_of_the_loaded_models():
    pipeline = tiny_pipeline()
    loaded = {component: sum(p.nbytes for p in getattr(pipeline, component).parameters()) for component in ALL}
    assert bytes_of_components(TINY_FLUX, torch.float32) == loaded
    assert bytes_of_components(TINY_FLUX, torch.bfloat16) == {name: size // 2 for name, size in loaded.items()}


def test_the_bytes_of_shards_are_those_of_one_file(tmp_path):
    for component in ALL:
        (tmp_path / component).symlink_to(TINY_FLUX / component)
    (tmp_path / "transformer").unlink()
    transformer = FluxTransformer2DModel.from_pretrained(TINY_FLUX / "transformer", dtype=torch.float32)
    save_transformer(transformer, tmp_path, max_shard_size="5MB")
    assert len(list((tmp_path / "transformer").glob("*.safetensors"))) > 2
    unused = tmp_path / "transformer" / "diffusion_pytorch_model.fp16.safetensors"  # which the index does not name
    unused.symlink_to(TINY_FLUX / "transformer" / "diffusion_pytorch_model.safetensors")
    assert bytes_of_components(tmp_path, torch.bfloat16) == bytes_of_components(TINY_FLUX, torch.bfloat16)
