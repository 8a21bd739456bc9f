"""Weight deltas that are not low-rank are refused, with the reason."""

import pytest
import torch

from lora.formats.reading import convert_lora
from tests.lora.formats.made import KOHYA, PEFT, lokr
from tests.tiny import assert_one_sentence

KOHYA_NAME = "lora_unet_double_blocks_0_img_mlp_0"
PEFT_NAME = "transformer.transformer_blocks.0.ff.net.0.proj"


def written(decomposition, name):
    return decomposition(name, 16, 8, torch.Generator().manual_seed(0))[0]


def refusal(tensors):
    with pytest.raises(ValueError) as error:
        convert_lora(tensors)
    assert_one_sentence(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("decomposition", "name", "kind", "shape"),
    [
        (KOHYA, KOHYA_NAME, "dora_scale", (1, 8)),
        (PEFT, PEFT_NAME, "lora_magnitude_vector", (16,)),
        (PEFT, PEFT_NAME, "lora_magnitude_vector.weight", (16,)),
        (lokr, KOHYA_NAME, "dora_scale", (16, 1)),
    ],
)
def test_dora_is_refused_by_name(decomposition, name, kind, shape):
    message = refusal(written(decomposition, name) | {f"{name}.{kind}": torch.zeros(shape)})
    assert message.startswith(f"has {name}.{kind} and is a DoRA")


def test_zeros_of_a_dora_on_a_layer_that_flux_does_not_have_are_refused():
    """A magnitude of 0 does not mean that the weights stay the same."""
    assert "nowhere.dora_scale" in refusal({"nowhere.dora_scale": torch.zeros(4)})


@pytest.mark.parametrize("kind", ["lora_mid.weight", "lokr_t2", "hada_t1"])
def test_a_convolution_is_refused_by_name(kind):
    message = refusal(written(KOHYA, KOHYA_NAME) | {f"{KOHYA_NAME}.{kind}": torch.ones(3, 3, 1, 1)})
    assert message.startswith(f"has {KOHYA_NAME}.{kind} and is for a convolution")


def test_a_bias_is_refused_by_name():
    message = refusal(written(PEFT, PEFT_NAME) | {f"{PEFT_NAME}.lora_B.bias": torch.ones(16)})
    assert message.startswith(f"has {PEFT_NAME}.lora_B.bias")


def test_two_decompositions_of_one_layer_are_refused():
    message = refusal(written(KOHYA, KOHYA_NAME) | written(lokr, KOHYA_NAME))
    assert message == f"has lokr and lora for {KOHYA_NAME}: expected one of lora, hada, lokr"


def test_an_alpha_without_matrices_is_refused():
    assert "only an alpha" in refusal({f"{KOHYA_NAME}.alpha": torch.tensor(1.0)})


@pytest.mark.parametrize("alpha", [torch.ones(2), torch.tensor(float("nan")), torch.tensor(float("inf"))])
def test_an_alpha_that_is_not_one_finite_number_is_refused(alpha):
    message = refusal(written(KOHYA, KOHYA_NAME) | {f"{KOHYA_NAME}.alpha": alpha})
    assert message.startswith(f"has {KOHYA_NAME}.alpha, which is not a valid alpha")


def test_the_same_matrix_under_two_names_is_refused():
    tensors = written(PEFT, PEFT_NAME)
    again = {f"{PEFT_NAME}.lora_down.weight": torch.ones(3, 8)}
    assert refusal(tensors | again).startswith(f"has both {PEFT_NAME}.lora_A.weight and {PEFT_NAME}.lora_down.weight")


def test_a_matrix_of_more_dimensions_is_refused():
    tensors = written(KOHYA, KOHYA_NAME) | {f"{KOHYA_NAME}.lora_down.weight": torch.ones(3, 8, 1, 1)}
    assert refusal(tensors).startswith(f"has {KOHYA_NAME}.lora_down.weight of shape 3x8x1x1: expected a matrix")
