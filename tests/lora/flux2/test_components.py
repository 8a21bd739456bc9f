"""A base is refused if its VAE cannot normalize latents."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora.base.components import load_components
from lora.flux2.components import COMPONENTS
from tests.families import KLEIN
from tests.tiny import assert_one_sentence

WEIGHTS = "vae/diffusion_pytorch_model.safetensors"


def refusal(base):
    with pytest.raises(ValueError) as error:
        load_components(base, ("vae",), COMPONENTS, dtype=torch.float32)
    assert_one_sentence(error.value, str(base / "vae"), "expected")
    return str(error.value)


@pytest.mark.parametrize(
    ("statistic", "number"),
    [
        ("running_mean", float("nan")),
        ("running_mean", float("inf")),
        ("running_var", float("nan")),
        ("running_var", float("inf")),
        ("running_var", 0.0),
        ("running_var", -1.0),
        ("running_mean", None),
        ("running_var", None),
    ],
)
def test_a_statistic_of_a_channel_that_is_unusable_or_missing_is_refused_by_its_name(tmp_path, statistic, number):
    base, name = KLEIN.linked(tmp_path / "base"), f"bn.{statistic}"
    tensors = load_file(base / WEIGHTS)
    if number is None:
        del tensors[name]
    else:
        tensors[name][-1] = number
    (base / WEIGHTS).unlink()
    save_file(tensors, base / WEIGHTS, metadata={"format": "pt"})
    assert name in refusal(base)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("batch_norm_eps", None), ("batch_norm_eps", -1e-4), ("batch_norm_eps", "x"), ("patch_size", [1, 4])],
)
def test_a_config_that_does_not_fit_the_statistics_is_refused_by_its_setting(tmp_path, setting, value):
    assert setting in refusal(KLEIN.changed(tmp_path / "base", "vae/config.json", **{setting: value}))
