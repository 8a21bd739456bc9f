"""The memory requirements of a training are computed from its base, images and recipe."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from lora.families.frozen_transformer import WeightPlacement, load_transformer
from lora.flux.latents import pack
from lora.images.size import Size
from lora.training.learning.adapter import add_lora
from lora.training.memory.configurations import plans
from lora.training.memory.requirements import (
    encoder_execution_device,
    encoder_offload_device,
    free_bytes,
    memory_requirements,
    weight_placement,
)
from lora.training.memory.weights import MemoryConfiguration
from tests.tiny import (
    TINY_FLUX,
    a_recipe,
    all_layers,
    encoded,
    lora_parameters,
    read_archive,
    solid_image,
    write,
    zipped,
)

CPU = torch.device("cpu")
LAYERS = ("transformer_blocks.0.attn.to_q",)


@pytest.fixture(scope="module")
def transformer():
    return load_transformer(TINY_FLUX, WeightPlacement("fp32", False, CPU))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Two images at two sizes."""
    folder = tmp_path_factory.mktemp("images")
    members = {"wide.png": encoded(solid_image(256, 128)), "square.png": encoded(solid_image(192, 192))}
    return read_archive(write(folder / "a.zip", zipped(members)), into=folder / "into", resolutions=(64, 128)).dataset


ALONE = {"neutral_side": 128, "sample_side": 0, "is_validated": False, "processes": 1, "may_be_int8": False}


def requirements(transformer, dataset, **changes):
    return memory_requirements(TINY_FLUX, dataset, a_recipe(**changes), all_layers(transformer), **ALONE)


@pytest.mark.parametrize("rank", [4, 16])
def test_the_parameters_of_the_lora_are_counted_before_it_exists(dataset, rank):
    transformer = load_transformer(TINY_FLUX, WeightPlacement("fp32", False, CPU))
    expected = requirements(transformer, dataset, lora_rank=rank).lora_parameters
    add_lora(transformer, layers=all_layers(transformer), rank=rank, seed=0)
    assert sum(parameter.numel() for parameter in lora_parameters(transformer).values()) == expected


def test_only_the_layers_that_are_trained_count(transformer, dataset):
    layer = transformer.transformer_blocks[0].attn.to_q
    found = memory_requirements(TINY_FLUX, dataset, a_recipe(lora_rank=4), LAYERS, **ALONE).lora_parameters
    assert found == 4 * (layer.in_features + layer.out_features)


def test_the_largest_training_size_counts_in_packed_tokens(transformer, dataset):
    sizes = [size for image in dataset.images for size in image.inspection.sizes]
    largest = max(sizes, key=lambda size: size.pixels)
    latents = torch.zeros(1, 16, largest.height // 8, largest.width // 8)
    assert requirements(transformer, dataset).image_tokens == pack(latents).shape[1]


def test_an_image_of_1024_pixels_is_4096_tokens(transformer):
    image = SimpleNamespace(inspection=SimpleNamespace(sizes=(Size(512, 512), Size(1024, 1024))), references=())
    assert requirements(transformer, SimpleNamespace(images=(image,))).image_tokens == 4096


def test_batch_size_and_optimizer_come_from_the_recipe(transformer, dataset):
    plain, other = (
        requirements(transformer, dataset),
        requirements(transformer, dataset, batch_size=8, optimizer="prodigy"),
    )
    assert (plain.batch_size, plain.optimizer_bytes) == (2, 8.0)
    assert (other.batch_size, other.optimizer_bytes) == (8, 16.0)


def test_images_for_preservation_count_if_they_are_the_largest(dataset):
    sides = {0.0: [8 * 8, 8 * 8], 0.5: [8 * 8, 16 * 16]}  # tokens, of images of 64 and of 256 pixels
    for share, expected in sides.items():
        found = [
            memory_requirements(
                TINY_FLUX, dataset, a_recipe(preservation=share), LAYERS, **ALONE | {"neutral_side": side}
            )
            for side in (64, 256)
        ]
        assert [each.image_tokens for each in found] == expected
        assert {each.is_preserving for each in found} == {share > 0}


def test_the_encoders_need_the_bytes_of_their_files(transformer, dataset):
    found = requirements(transformer, dataset)

    def size(*components):
        return sum(
            file.stat().st_size for component in components for file in (TINY_FLUX / component).glob("*.safetensors")
        )

    assert sum(found.encoder_bytes) == size("text_encoder", "text_encoder_2") > 0
    assert found.vae_bytes == size("vae") > 0


def test_there_is_free_memory():
    assert free_bytes() > 2**20


def test_the_weight_placement_is_that_of_the_plan(transformer, dataset):
    (plan, *_) = plans(
        requirements(transformer, dataset),
        free_bytes=1e12,
        free_host_bytes=1e12,
        on_gpu=False,
        precision="auto",
        checkpointing=False,
        engine="fast",
    )
    configuration = MemoryConfiguration("int8", "blocks", modulation_on_host=True, streamed_blocks=3)
    assert weight_placement(replace(plan, configuration=configuration)) == WeightPlacement("int8", True, CPU, 3)


def test_without_a_gpu_the_encoders_are_stored_and_run_on_the_host():
    assert {encoder_offload_device(placement) for placement in ("together", "in turn", "host")} == {CPU}
    assert {encoder_execution_device(placement) for placement in ("together", "in turn", "host")} == {CPU}


def test_samples_and_processes_are_counted_as_they_are_asked_for(dataset):
    options = {**ALONE, "sample_side": 1000, "is_validated": True, "processes": 4}
    found = memory_requirements(TINY_FLUX, dataset, a_recipe(), LAYERS, **options)
    assert (found.sample_tokens, found.is_validated, found.processes) == (62**2, True, 4)
