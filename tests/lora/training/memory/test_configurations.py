"""The memory plan: the best one for each GPU, and predictions that match what is really allocated."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from lora.engine.linears import HostLinear
from lora.engine.options import PRECOMPUTED_BYTES
from lora.engine.precision import TimedMatmul
from lora.families.frozen_transformer import WeightPlacement, load_transformer
from lora.flux.dimensions import dimensions_of
from lora.training.learning.adapter import add_lora
from lora.training.memory.activations import KEPT
from lora.training.memory.configurations import GB, plans
from lora.training.memory.prediction import TRANSIENT_UNITS, MemoryPrediction, MemoryRequirements, lora_bytes
from lora.training.memory.weights import MemoryConfiguration, weight_bytes
from tests.families import FIRST, KLEIN
from tests.lora.training.memory import measured
from tests.lora.training.memory.measured import bytes_of, predicted_velocity, requirements_of, tensors_of
from tests.random_klein import KLEIN_4B_CONFIG
from tests.tiny import (
    FLUX_DEV_CONFIG,
    all_layers,
    assert_one_sentence,
    lora_parameters,
    save_transformer,
    tiny_transformer,
)

CPU = torch.device("cpu")
FLUX_DEV = dimensions_of(FLUX_DEV_CONFIG)
KLEIN_4B = KLEIN.family.transformer.dimensions(KLEIN_4B_CONFIG)
FLUX_DEV_PARAMETERS = 11_901_408_320  # reference/performance.md 1.1
QK_NORMS = (19 * 4 + 38 * 2) * 128
ALL_LAYERS = 85_920_000  # LoRA parameters of rank 16
CONTEXT = 0.6  # GB that CUDA itself takes of a GPU
T5, CLIP, VAE = 9_524_621_312, 246_120_960, 167_639_366
WITHIN = 0.1
PLACES = (("tiny-flux", False), ("tiny-flux", True), ("tiny-flux2", False))  # bases, and their modulation on the host
ALONE = {"is_validated": False, "sample_tokens": 0, "processes": 1}
INT8_FIRST = (TimedMatmul("int8", 1.0), TimedMatmul("bf16", 1.5))
BF16_FIRST = INT8_FIRST[::-1]


def requirements(*, shape=FLUX_DEV, pixels=1024, batch_size=1, is_preserving=False, matmuls=INT8_FIRST, **between):
    tokens = (pixels // 16) ** 2
    each = shape, tokens, 512, batch_size, ALL_LAYERS, 8.0, (T5, CLIP), VAE, is_preserving
    return MemoryRequirements(*each, **ALONE | between, matmuls=matmuls)


def plans_for(card, *, host=1000, on_gpu=True, precision="auto", checkpointing=None, engine="fast", **changes):
    """The plans for a card and a free host memory of so many GB."""
    free = (card - CONTEXT) * GB
    needed = requirements(**changes)
    choices = {"precision": precision, "checkpointing": checkpointing, "engine": engine}
    return plans(needed, free_bytes=free, free_host_bytes=host * GB, on_gpu=on_gpu, **choices)


def configuration_of(plan):
    """The memory configuration as a tuple; of streamed blocks and of whole blocks, only whether there are any."""
    found = plan.configuration
    streamed = ("streamed",) if found.streamed_blocks else ()
    whole = ("some blocks whole",) if found.whole_blocks else ()
    return found.precision, found.recomputed, found.modulation_on_host, *streamed, *whole


def test_preservation_needs_more_memory_only_for_precomputed_modulation():
    """It follows the batch of training, whose activations are freed by then."""
    for card, more in ((48, 0), (32, PRECOMPUTED_BYTES)):
        plain, preserving = (plans_for(card, is_preserving=each)[0] for each in (False, True))
        assert preserving.configuration == plain.configuration
        assert preserving.peak_bytes - plain.peak_bytes == more


def test_validation_and_samples_need_a_copy_of_the_lora_while_its_average_replaces_it():
    """Only if that exceeds what a backward pass needs, as for small images."""
    copy = ALL_LAYERS * 4
    for pixels in (512, 1024):
        plain, validated = (plans_for(80, pixels=pixels, is_validated=each)[0] for each in (False, True))
        backward = (FLUX_DEV.widest + TRANSIENT_UNITS) * ((pixels // 16) ** 2 + 512) * FLUX_DEV.width * 2
        assert validated.peak_bytes - plain.peak_bytes == max(copy - backward, 0)


def test_samples_need_the_vae_beside_a_forward_pass():
    for pixels in (256, 512):
        tokens = (pixels // 16) ** 2
        validated = plans_for(80, pixels=pixels, is_validated=True)[0]
        sampled = plans_for(80, pixels=pixels, is_validated=True, sample_tokens=tokens)[0]
        assert sampled.peak_bytes - validated.peak_bytes == VAE
    larger = plans_for(80, pixels=512, is_validated=True, sample_tokens=64**2)[0]
    assert larger.peak_bytes > plans_for(80, pixels=1024, is_validated=True)[0].peak_bytes


def test_as_few_blocks_stream_as_fit_beside_samples_too():
    for pixels in (512, 1024):
        best = plans_for(10, pixels=pixels, is_validated=True, sample_tokens=(pixels // 16) ** 2)[0]
        assert best.fits
        assert 0 < best.configuration.streamed_blocks < FLUX_DEV.blocks


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        (80, ("bf16", "nothing", False)),
        (48, ("bf16", "pointwise", False)),
        (40, ("bf16", "pointwise", True)),
        (36, ("bf16", "gelu", True)),
        (28, ("bf16", "gelu", True, "some blocks whole")),
        (24, ("bf16", "gelu", True, "some blocks whole")),
        (23.25, ("bf16", "blocks", True)),
        (20, ("int8", "nothing", True, "some blocks whole")),
        (15.3, ("int8", "blocks", True)),
        (12, ("int8", "blocks", True, "streamed")),
        (8, ("int8", "blocks", True, "streamed")),
    ],
)
def test_each_card_gets_the_best_that_fits(card, expected):
    best = plans_for(card)[0]
    assert configuration_of(best) == expected
    assert best.fits


@pytest.mark.parametrize(
    ("card", "changes", "expected"),
    [
        (48, {"pixels": 512}, ("bf16", "nothing", False)),
        (16, {"pixels": 512}, ("int8", "nothing", True, "some blocks whole")),
        (6, {"pixels": 512}, ("int8", "blocks", True, "streamed")),
        (8, {"pixels": 1280}, ("nf4", "blocks", True, "streamed")),
        (80, {"batch_size": 4}, ("bf16", "gelu", False)),
        (24, {"batch_size": 4}, ("int8", "blocks", True, "streamed")),
        (24, {"pixels": 256}, ("bf16", "pointwise", True)),
    ],
)
def test_smaller_images_or_larger_batches_change_the_plan(card, changes, expected):
    assert configuration_of(plans_for(card, **changes)[0]) == expected


def test_the_fallbacks_are_all_plans_that_need_less():
    assert [configuration_of(plan) for plan in plans_for(200)] == [
        *[("bf16", recomputed, on_host) for recomputed in KEPT for on_host in (False, True)],
        ("int8", "blocks", False),
        ("int8", "blocks", True),
        *[("int8", "blocks", True, "streamed")] * 2,  # some, and all; from here on the encoders need most
        ("nf4", "blocks", False),
        ("nf4", "blocks", True),
        *[("nf4", "blocks", True, "streamed")] * 2,
    ]
    for card in (200, 80, 48, 24, 16, 12, 8):
        for pixels in (512, 1024):
            peaks = [plan.peak_bytes for plan in plans_for(card, pixels=pixels)]
            assert peaks == sorted(peaks, reverse=True)


def test_peft_under_autocast_recomputes_blocks_or_nothing():
    assert {plan.configuration.recomputed for plan in plans_for(200, engine="plain")} == {"nothing", "blocks"}
    assert {plan.engine for plan in plans_for(200, engine="plain")} == {"plain"}


def test_the_fast_engine_never_needs_more():
    plain = {configuration_of(plan): plan.peak_bytes for plan in plans_for(200, engine="plain")}
    fast = {configuration_of(plan): plan.peak_bytes for plan in plans_for(200)}
    assert all(fast[each] <= plain[each] for each in plain)
    assert fast["bf16", "nothing", False] < 0.9 * plain["bf16", "nothing", False]


def test_more_free_memory_never_gives_a_worse_plan():
    every = [plans_for(card / 2) for card in range(2, 300)]
    lengths = [len(plans) for plans in every]
    assert lengths == sorted(lengths)
    placements = [("host", "in turn", "together").index(plans[0].encoders) for plans in every]
    assert placements == sorted(placements)


@pytest.mark.parametrize("pixels", [512, 768, 1024])
def test_a_larger_batch_never_needs_less(pixels):
    plans_by_batch = [plans_for(1000, pixels=pixels, batch_size=count) for count in range(1, 17)]
    by_batch = [{configuration_of(plan): plan.peak_bytes for plan in plans} for plans in plans_by_batch]
    for smaller, larger in pairwise(by_batch):
        assert all(smaller[each] <= larger[each] for each in smaller.keys() & larger.keys())


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "nf4"])
@pytest.mark.parametrize("checkpointing", [None, True, False])
@pytest.mark.parametrize(("on_gpu", "card"), [(True, 1000), (True, 1), (False, 1000), (False, 1)])
def test_the_choices_of_the_user_are_kept_in_every_plan(precision, checkpointing, on_gpu, card):
    for plan in plans_for(card, on_gpu=on_gpu, precision=precision, checkpointing=checkpointing):
        assert plan.configuration.precision == precision
        assert checkpointing is None or plan.configuration.recomputed == ("blocks" if checkpointing else "nothing")


def test_if_nothing_fits_the_smallest_plan_is_tried_and_its_line_warns():
    (only,) = plans_for(4)
    assert configuration_of(only) == ("nf4", "blocks", True, "streamed")
    assert not only.fits
    assert only.line().endswith("GB free, which may not fit")


def test_on_a_cpu_the_default_is_full_precision_without_recomputation():
    (plan,) = plans_for(16, on_gpu=False)
    assert (*configuration_of(plan), plan.encoders) == ("fp32", "nothing", False, "together")
    (plan,) = plans_for(1000, on_gpu=False, checkpointing=True)
    assert configuration_of(plan) == ("fp32", "blocks", False)


def test_the_encoders_are_on_the_device_together_or_in_turn_or_on_the_host():
    assert [plans_for(card)[0].encoders for card in (24, 12, 8)] == ["together", "in turn", "host"]


def test_no_more_blocks_are_recomputed_as_a_whole_than_have_to_be():
    for card in range(16, 37):
        for pixels in (512, 1024):
            plan = plans_for(card, pixels=pixels)[0]
            if plan.configuration.whole_blocks:
                one_less = replace(plan.configuration, whole_blocks=plan.configuration.whole_blocks - 1)
                needed = MemoryPrediction(requirements(pixels=pixels), True, "fast").running_bytes(one_less)
                assert plan.peak_bytes <= plan.free_bytes < needed
                assert plan.settings()["whole_blocks"] == plan.configuration.whole_blocks
                assert plan.settings()["gradient_checkpointing"] is True


def test_int8_layers_are_multiplied_by_what_is_fastest():
    """In bf16 there are no results in int32, so that less can be recomputed."""
    int8, bf16 = (plans_for(16, pixels=512, matmuls=matmuls)[0] for matmuls in (INT8_FIRST, BF16_FIRST))
    assert (int8.configuration.matmul, bf16.configuration.matmul) == ("int8", "bf16")
    assert (int8.configuration.recomputed, bf16.configuration.recomputed) == ("nothing", "gelu")
    assert "base in int8 with int8 matmul, 1.00 ms a layer (bf16 matmul, 1.50 ms a layer), " in int8.line()
    assert "base in int8 with bf16 matmul, 1.50 ms a layer (int8 matmul, 1.00 ms a layer), " in bf16.line()
    assert bf16.settings()["int8_matmul"] == "bf16"
    assert "int8_matmul" not in plans_for(24)[0].settings()
    assert "matmul" not in plans_for(24)[0].line()


def test_the_line_describes_the_plan():
    line = plans_for(23.25)[0].line()
    assert_one_sentence(
        line, "base in bf16, whole blocks recomputed, modulation layers in host memory", "of 22.6 GB free"
    )
    assert "activations kept, encoders loaded together" in plans_for(80)[0].line()
    assert "pointwise activations recomputed" in plans_for(48)[0].line()
    streaming = plans_for(8, pixels=512)[0]
    count = streaming.configuration.streamed_blocks
    assert f", modulation layers in host memory, {count} of 57 blocks streamed from host memory," in streaming.line()
    assert streaming.settings()["streamed_blocks"] == count


def test_the_line_names_the_activation_function_of_the_family():
    for shape, function in ((FLUX_DEV, "GELU"), (KLEIN_4B, "SwiGLU")):
        lines = [plan.line() for plan in plans_for(200, shape=shape)]
        assert f"pointwise activations and {function} inputs recomputed" in "; ".join(lines)


def test_the_shape_counts_every_parameter_of_flux_dev():
    counted = FLUX_DEV.modulation_rows * (FLUX_DEV.width + 1) + FLUX_DEV.block_weights + FLUX_DEV.block_rows
    assert counted + FLUX_DEV.outer_parameters + QK_NORMS == FLUX_DEV_PARAMETERS
    assert FLUX_DEV.block_layers + FLUX_DEV.modulation_layers == 494


# The tests below compare predictions with allocations on a CPU; CUDA was not measured.


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """The folders of a small transformer and of the embedded ones."""
    folder = tmp_path_factory.mktemp("base")
    save_transformer(tiny_transformer(), folder)
    return {"tiny": folder, "tiny-flux": FIRST.folder, "tiny-flux2": KLEIN.folder}


@pytest.mark.parametrize(("name", "on_host"), [("tiny", False), ("tiny", True), *PLACES])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "nf4"])
def test_the_weights_take_what_is_predicted(bases, name, precision, on_host):
    transformer = load_transformer(bases[name], WeightPlacement(precision, on_host, CPU))
    shape = measured.dimensions_of(transformer)
    predicted = weight_bytes(shape, MemoryConfiguration(precision, "blocks", on_host), on_gpu=False)
    assert predicted == pytest.approx(bytes_of(tensors_of(transformer)), rel=WITHIN)
    if on_host:
        on_host_bytes = bytes_of(layer.host_weight for layer in transformer.modules() if isinstance(layer, HostLinear))
        assert shape.modulation_rows * shape.width * host_weight_bytes(precision) == on_host_bytes


@pytest.mark.parametrize(("name", "on_host"), PLACES)
@pytest.mark.parametrize("precision", ["bf16", "int8", "nf4"])
@pytest.mark.parametrize("streamed", [3, 7])
def test_two_of_the_streamed_blocks_are_counted(bases, name, precision, on_host, streamed):
    transformer = load_transformer(bases[name], WeightPlacement(precision, on_host, CPU, streamed))
    requirements = requirements_of(transformer, batch_size=1, image_tokens=4, text_tokens=4)
    with torch.no_grad():
        predicted_velocity(transformer, requirements)
    configuration = MemoryConfiguration(precision, "blocks", on_host, streamed)
    predicted = weight_bytes(requirements.shape, configuration, on_gpu=False)
    assert predicted == pytest.approx(bytes_of(tensors_of(transformer)), rel=WITHIN)


def test_streaming_leaves_as_many_blocks_on_the_device_as_fit():
    counts = [
        plans_for(card, pixels=512, precision="int8")[0].configuration.streamed_blocks for card in (16, 12, 10, 8)
    ]
    assert counts[0] == 0
    assert counts == sorted(set(counts))
    assert all(plan.peak_bytes <= plan.free_bytes for card in (12, 10, 8) for plan in plans_for(card, pixels=512))


def test_no_plan_streams_so_few_blocks_that_the_slots_take_more_than_they_free():
    for card in range(4, 49):
        for plan in plans_for(card):
            count = plan.configuration.streamed_blocks
            assert not count or FLUX_DEV.offloaded_weights(count, with_modulation=False) > 0


def test_bf16_is_streamed_only_if_the_user_chose_it():
    assert configuration_of(plans_for(16, precision="bf16")[0]) == ("bf16", "blocks", True, "streamed")
    assert not any(
        configuration_of(plan)[::3] == ("bf16", "streamed") for card in range(6, 30) for plan in plans_for(card)
    )


def host_weight_bytes(precision):
    return 2 if precision == "bf16" else 4


@pytest.mark.parametrize("name", ["tiny", "tiny-flux", "tiny-flux2"])
def test_a_lora_with_its_optimizer_takes_what_is_predicted(bases, name):
    transformer = load_transformer(bases[name], WeightPlacement("fp32", False, CPU))
    add_lora(transformer, layers=all_layers(transformer), rank=4, seed=0)
    lora = list(lora_parameters(transformer).values())
    optimizer = torch.optim.AdamW(lora)
    average = [parameter.detach().clone() for parameter in lora]
    for parameter in lora:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    states = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    found = bytes_of([*lora, *average, *states, *(parameter.grad for parameter in lora)])
    predicted = lora_bytes(sum(parameter.numel() for parameter in lora), optimizer_bytes=8)
    assert predicted == pytest.approx(found, rel=WITHIN)
