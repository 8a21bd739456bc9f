"""Weight deltas that are not low-rank are refused, with the reason."""

import pytest
import torch

from lora.formats.layer_names.flux1 import FLUX1
from lora.formats.reading import convert_lora
from tests.lora.formats.made import KOHYA, PEFT, lokr
from tests.tiny import assert_one_sentence

KOHYA_NAME = "lora_unet_double_blocks_0_img_mlp_0"
PEFT_NAME = "transformer.transformer_blocks.0.ff.net.0.proj"


def written(decomposition, name):
    return decomposition(name, 16, 8, torch.Generator().manual_seed(0))[0]


def refusal(tensors):
    with pytest.raises(ValueError) as error:
        convert_lora(tensors, FLUX1)
    assert_one_sentence(error.value)
    return str(error.value)


def test_zeros_of_a_dora_on_a_layer_that_flux_does_not_have_are_refused():
    """A magnitude of 0 does not mean that the weights stay the same."""
    assert "nowhere.dora_scale" in refusal({"nowhere.dora_scale": torch.zeros(4)})


@pytest.mark.parametrize("kind", ["lora_mid.weight", "lokr_t2", "hada_t1"])
def test_a_convolution_is_refused_by_name(kind):
    message = refusal(written(KOHYA, KOHYA_NAME) | {f"{KOHYA_NAME}.{kind}": torch.ones(3, 3, 1, 1)})
    assert message.startswith(f"has {KOHYA_NAME}.{kind} and is for a convolution")


def test_two_decompositions_of_one_layer_are_refused():
    message = refusal(written(KOHYA, KOHYA_NAME) | written(lokr, KOHYA_NAME))
    assert message == f"has lokr and lora for {KOHYA_NAME}: expected one of lora, hada, lokr, glora, difference"


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
    tensors = written(KOHYA, KOHYA_NAME) | {f"{KOHYA_NAME}.lora_down.weight": torch.ones(3, 8, 3, 3)}
    assert refusal(tensors).startswith(f"has {KOHYA_NAME}.lora_down.weight of shape 3x8x3x3: expected a matrix")


@pytest.mark.parametrize("decomposition", [KOHYA, lokr], ids=["LoRA", "LoKr"])
def test_a_1x1_convolution_is_a_matrix(decomposition):
    tensors, delta = decomposition(KOHYA_NAME, 16, 8, torch.Generator().manual_seed(0))
    convolutions = {name: tensor[..., None, None] if tensor.ndim else tensor for name, tensor in tensors.items()}
    (found,) = convert_lora(convolutions, FLUX1).transformer.values()
    assert torch.allclose(found.matrix(torch.device("cpu")).double(), delta(), atol=1e-5)


@pytest.mark.parametrize("kind", ["alpha", "dora_scale"])
def test_a_layer_without_a_decomposition_is_refused(kind):
    assert "expected one of lora" in refusal({f"{KOHYA_NAME}.{kind}": torch.ones(16, 1)})


def test_a_whole_number_is_a_valid_alpha():
    """The default of sd-scripts."""
    tensors, delta = KOHYA(KOHYA_NAME, 16, 8, torch.Generator().manual_seed(0))
    (found,) = convert_lora(tensors | {f"{KOHYA_NAME}.alpha": torch.tensor(2)}, FLUX1).transformer.values()
    assert torch.allclose(found.matrix(torch.device("cpu")).double(), delta(), atol=1e-5)


@pytest.mark.parametrize("alpha", [float("inf"), float("nan")])
def test_an_alpha_that_nothing_is_multiplied_by_is_not_checked(alpha):
    """ai-toolkit stores 1e10 with a LoKr of two whole factors, which is infinity in fp16."""
    tensors = {f"{KOHYA_NAME}.lokr_w1": torch.ones(4, 2), f"{KOHYA_NAME}.lokr_w2": torch.ones(4, 4)}
    (found,) = convert_lora(tensors | {f"{KOHYA_NAME}.alpha": torch.tensor(alpha)}, FLUX1).transformer.values()
    assert torch.equal(found.matrix(torch.device("cpu")), torch.ones(16, 8))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float8_e4m3fn, torch.float8_e5m2])
def test_weights_of_any_float_are_read_by_their_values(dtype):
    tensors, _ = KOHYA(KOHYA_NAME, 16, 8, torch.Generator().manual_seed(0))
    rounded = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    again = {name: tensor.float() for name, tensor in rounded.items()}
    first, second = (next(iter(convert_lora(each, FLUX1).transformer.values())) for each in (rounded, again))
    assert all(map(torch.equal, first.tensors, second.tensors))
