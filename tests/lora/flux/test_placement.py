"""What of FLUX lives on a GPU of a size, and when a GPU is too small to begin with."""

from itertools import pairwise

import pytest
import torch
from diffusers import FluxTransformer2DModel

from lora.engine.options import streamed_block_indices
from lora.flux.dimensions import Dimensions
from lora.flux.placement import bytes_of_components, placement
from tests.tiny import TINY_FLUX, assert_one_sentence, tiny_pipeline

GIB = 2**30
# As published, in bf16: 11.9, 4.76, 0.12 and 0.08 billion numbers.
FLUX = {
    "transformer": 23_802_816_640,
    "text_encoder_2": 9_524_621_312,
    "text_encoder": 246_120_960,
    "vae": 167_639_366,
}
# What a CUDA context leaves free of cards that nobody else uses, about.
H100, A6000, A100_40, RTX_5090, RTX_4090 = 78.6 * GIB, 47.0 * GIB, 39.0 * GIB, 31.2 * GIB, 23.3 * GIB
ALL = {"transformer", "vae", "text_encoder", "text_encoder_2"}


DEV = Dimensions(19, 38, 3072, 4096, 768, 64, True)


def placed(free):
    return placement(FLUX, DEV, weight_bytes=2, free_bytes=int(free))


@pytest.mark.parametrize(
    ("free", "on_gpu"),
    [
        (H100, ALL),
        (A6000, ALL),
        (A100_40, ALL),
        (RTX_5090, ALL - {"text_encoder_2"}),
        (38.75e9, ALL),  # 33.74 GB, and 5 to draw in
        (38.7e9, ALL - {"text_encoder_2"}),
        (29.22e9, ALL - {"text_encoder_2"}),
        (29.2e9, {"transformer", "vae"}),
        (28.98e9, {"transformer", "vae"}),
    ],
)
def test_the_text_encoders_give_way_where_memory_is_short(free, on_gpu):
    assert set(placed(free).on_gpu) == on_gpu
    assert placed(free).streamed_blocks == 0


def test_then_as_many_blocks_stream_as_have_to():
    counts = [placed(free).streamed_blocks for free in (28.9e9, RTX_4090, 16e9, 12e9, 8e9)]
    assert all(0 < few < many < 57 for few, many in pairwise(counts))
    for free in (RTX_4090, 12e9):
        found = placed(free)
        assert needed(found.streamed_blocks) <= free < needed(found.streamed_blocks - 1)
        assert set(found.on_gpu) == {"transformer", "vae"}


def needed(streamed):
    """In bytes: weights of blocks that stay, two of the largest that stream, what is not in blocks, and room to draw
    in."""
    sizes = [339_800_000] * 19 + [141_600_000] * 38  # weights of linear layers
    away = [sizes[place] for place in streamed_block_indices(streamed, of=57)]
    return FLUX["transformer"] + FLUX["vae"] + 5e9 - 2 * (sum(away) - 2 * max(away))


@pytest.mark.parametrize(("free", "found"), [(6.5e9, "6.1 GiB"), (0, "0.0 GiB")])
def test_a_gpu_without_room_for_blocks_that_stream_is_told_what_it_lacks(free, found):
    with pytest.raises(MemoryError) as error:
        placed(free)
    assert_one_sentence(error.value, f"the GPU has {found} of free memory: expected 6.2 GiB or more", "4.7 are to draw")


def test_the_bytes_of_parts_are_those_of_what_is_loaded():
    pipeline = tiny_pipeline()
    loaded = {part: sum(p.nbytes for p in getattr(pipeline, part).parameters()) for part in ALL}
    assert bytes_of_components(TINY_FLUX, torch.float32) == loaded
    assert bytes_of_components(TINY_FLUX, torch.bfloat16) == {part: size // 2 for part, size in loaded.items()}


def test_the_bytes_of_shards_are_those_of_one_file(tmp_path):
    for part in ALL:
        (tmp_path / part).symlink_to(TINY_FLUX / part)
    (tmp_path / "transformer").unlink()
    FluxTransformer2DModel.from_pretrained(TINY_FLUX / "transformer", dtype=torch.float32).save_pretrained(
        tmp_path / "transformer", max_shard_size="5MB"
    )
    assert len(list((tmp_path / "transformer").glob("*.safetensors"))) > 2
    unused = tmp_path / "transformer" / "diffusion_pytorch_model.fp16.safetensors"  # which the index does not name
    unused.symlink_to(TINY_FLUX / "transformer" / "diffusion_pytorch_model.safetensors")
    assert bytes_of_components(tmp_path, torch.bfloat16) == bytes_of_components(TINY_FLUX, torch.bfloat16)
