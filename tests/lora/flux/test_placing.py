"""What of FLUX lives on a GPU of a size, and when a GPU is too small to begin with."""

import pytest
import torch
from diffusers import FluxTransformer2DModel

from lora.flux.placing import bytes_of_parts, parts_on_gpu
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
    assert set(parts_on_gpu(FLUX, free_bytes=int(free))) == on_gpu


@pytest.mark.parametrize(("free", "found"), [(RTX_4090, "23.3 GiB"), (28.9e9, "26.9 GiB"), (0, "0.0 GiB")])
def test_a_gpu_without_room_for_the_transformer_is_told_what_it_lacks(free, found):
    with pytest.raises(MemoryError) as error:
        parts_on_gpu(FLUX, free_bytes=int(free))
    assert_one_sentence(error.value, f"the GPU has {found} of free memory: expected 27.0 GiB or more")
    assert "22.2 for the transformer, 0.2 for the VAE and 4.7 to draw in" in str(error.value)


def test_the_bytes_of_parts_are_those_of_what_is_loaded():
    pipeline = tiny_pipeline()
    loaded = {part: sum(p.nbytes for p in getattr(pipeline, part).parameters()) for part in ALL}
    assert bytes_of_parts(TINY_FLUX, torch.float32) == loaded
    assert bytes_of_parts(TINY_FLUX, torch.bfloat16) == {part: size // 2 for part, size in loaded.items()}


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
    assert bytes_of_parts(tmp_path, torch.bfloat16) == bytes_of_parts(TINY_FLUX, torch.bfloat16)
