"""The final LoRA is chosen among the files of a repository, as a person would."""

import pytest

from weights.file_choice import choice_note, loras_in, pickles_note, preferred_lora

AI_TOOLKIT = ["ohwx.safetensors", "ohwx_000000250.safetensors", "ohwx_000000500.safetensors"]
KOHYA = ["ohwx.safetensors", "ohwx-000002.safetensors", "ohwx-step00000100.safetensors"]
DIFFUSERS = ["pytorch_lora_weights.safetensors", "checkpoint-500/pytorch_lora_weights.safetensors"]
CHECKPOINTS = ["checkpoint-500/x.safetensors", "checkpoints/step_250/lora.safetensors"]


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["a/x.safetensors"], "a/x.safetensors"),
        (AI_TOOLKIT, "ohwx.safetensors"),
        (KOHYA, "ohwx.safetensors"),
        (DIFFUSERS, "pytorch_lora_weights.safetensors"),
        (["ohwx.safetensors", *CHECKPOINTS], "ohwx.safetensors"),
        (["output/x/lora.safetensors", *(f"output/x/{name}" for name in CHECKPOINTS)], "output/x/lora.safetensors"),
        (["a.safetensors", "lora.safetensors", "b.safetensors"], "lora.safetensors"),
        (["adapter_model.safetensors", "optimizer.safetensors"], "adapter_model.safetensors"),
        (["pytorch_lora_weights.safetensors", "lora.safetensors"], "pytorch_lora_weights.safetensors"),
    ],
)
def test_the_final_lora_is_preferred(names, chosen):
    assert preferred_lora(names) == preferred_lora(names[::-1]) == chosen


@pytest.mark.parametrize(
    "names",
    [
        ["a.safetensors", "b.safetensors"],
        ["a/lora.safetensors", "b/lora.safetensors"],
        ["a_000000250.safetensors", "a_000000500.safetensors"],
        ["style_v1.safetensors", "style_v2.safetensors"],
        ["portrait.safetensors", "anime_64.safetensors"],
        CHECKPOINTS,
    ],
)
def test_nothing_is_guessed(names):
    assert preferred_lora(names) is None


def test_only_a_choice_among_several_is_noted():
    assert choice_note(["a"], "a") == ""
    assert choice_note(AI_TOOLKIT, "ohwx.safetensors") == "has 3 .safetensors files: 'ohwx.safetensors' is used"


@pytest.mark.parametrize("suffix", ["pt", "bin", "ckpt", "pth", "PT"])
def test_pickles_are_named(suffix):
    note = f"; pickles, such as 'b.{suffix}', are not read, because they can run code"
    assert pickles_note(["a.txt", f"b.{suffix}"]) == note
    assert pickles_note(["a.txt"]) == ""


def test_the_files_that_macos_adds_are_no_loras():
    assert loras_in(["a/._x.safetensors", "a/x.safetensors", "a/x.txt"]) == ["a/x.safetensors"]
