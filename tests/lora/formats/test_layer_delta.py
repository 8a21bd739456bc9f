"""Changes of weights that are no product of two matrices are refused by what they are."""

import pytest
import torch

from lora.formats.reading import convert_lora
from tests.lora.formats.made import KOHYA, PEFT, lokr
from tests.tiny import assert_one_sentence

KOHYA_NAME = "lora_unet_double_blocks_0_img_mlp_0"
PEFT_NAME = "transformer.transformer_blocks.0.ff.net.0.proj"


def written(form, name):
    return form(name, 16, 8, torch.Generator().manual_seed(0))[0]


def refusal(tensors):
    with pytest.raises(ValueError) as error:
        convert_lora(tensors)
    assert_one_sentence(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("form", "name", "part", "shape"),
    [
        (KOHYA, KOHYA_NAME, "dora_scale", (1, 8)),
        (PEFT, PEFT_NAME, "lora_magnitude_vector", (16,)),
        (PEFT, PEFT_NAME, "lora_magnitude_vector.weight", (16,)),
        (lokr, KOHYA_NAME, "dora_scale", (16, 1)),
    ],
)
def test_dora_is_refused_by_name(form, name, part, shape):
    message = refusal(written(form, name) | {f"{name}.{part}": torch.zeros(shape)})
    assert message.startswith(f"holds {name}.{part} and is a DoRA")


def test_zeros_of_a_dora_in_a_place_that_flux_does_not_have_are_not_passed_over():
    """A magnitude of 0 is no change of 0."""
    assert "nowhere.dora_scale" in refusal({"nowhere.dora_scale": torch.zeros(4)})


@pytest.mark.parametrize("part", ["lora_mid.weight", "lokr_t2", "hada_t1"])
def test_a_convolution_is_refused_by_name(part):
    message = refusal(written(KOHYA, KOHYA_NAME) | {f"{KOHYA_NAME}.{part}": torch.ones(3, 3, 1, 1)})
    assert message.startswith(f"holds {KOHYA_NAME}.{part} and is for a convolution")


def test_a_bias_is_refused_by_name():
    message = refusal(written(PEFT, PEFT_NAME) | {f"{PEFT_NAME}.lora_B.bias": torch.ones(16)})
    assert message.startswith(f"holds {PEFT_NAME}.lora_B.bias")


def test_two_forms_of_one_layer_are_refused():
    message = refusal(written(KOHYA, KOHYA_NAME) | written(lokr, KOHYA_NAME))
    assert message == f"holds lokr and lora for {KOHYA_NAME}: expected one of lora, hada, lokr"


def test_an_alpha_of_nothing_is_refused():
    assert "nothing but an alpha" in refusal({f"{KOHYA_NAME}.alpha": torch.tensor(1.0)})


@pytest.mark.parametrize("alpha", [torch.ones(2), torch.tensor(float("nan")), torch.tensor(float("inf"))])
def test_an_alpha_that_is_no_number_is_refused(alpha):
    message = refusal(written(KOHYA, KOHYA_NAME) | {f"{KOHYA_NAME}.alpha": alpha})
    assert message.startswith(f"holds {KOHYA_NAME}.alpha that is no alpha")


def test_the_same_half_under_two_names_is_refused():
    tensors = written(PEFT, PEFT_NAME)
    again = {f"{PEFT_NAME}.lora_down.weight": torch.ones(3, 8)}
    assert refusal(tensors | again).startswith(f"holds both {PEFT_NAME}.lora_A.weight and {PEFT_NAME}.lora_down.weight")


def test_a_matrix_of_more_dimensions_is_refused():
    tensors = written(KOHYA, KOHYA_NAME) | {f"{KOHYA_NAME}.lora_down.weight": torch.ones(3, 8, 1, 1)}
    assert refusal(tensors).startswith(f"holds {KOHYA_NAME}.lora_down.weight of the shape 3x8x1x1: expected a matrix")
