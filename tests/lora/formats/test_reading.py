"""A LoRA of any layout has the weight deltas that its trainer wrote; files that cannot be read are refused."""

import pytest
import torch

from lora.formats.layer_names.flux1 import FLUX1
from lora.formats.layer_names.flux2 import FLUX2
from lora.formats.reading import convert_lora
from tests.lora.formats.families import CASES, flux1_shapes
from tests.lora.formats.made import LAYOUTS, RANK
from tests.tiny import assert_one_sentence, random_lora, tiny_transformer

EXACT = 1e-5
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def shapes():
    """The shapes of all linear layers of a tiny transformer, including the embedders and the last layers."""
    return flux1_shapes()


def by_layout(*names):
    """All layouts of both families, or those with these names."""
    chosen = {name: case for name, case in CASES.items() if not names or name.split(" ", 1)[1] in names}
    return pytest.mark.parametrize("case", chosen.values(), ids=[*chosen])


BOTH = pytest.mark.parametrize("names", [FLUX1, FLUX2], ids=lambda names: names.name)


def assert_deltas(found, expected):
    """Every delta is that of the file, and no other layer has one."""
    assert found.keys() == expected.keys()
    for layer, delta in expected.items():
        matrix = found[layer].matrix(CPU).double()
        assert (matrix - delta).norm() <= EXACT * delta.norm(), layer


def refusal(tensors, names=FLUX1):
    with pytest.raises(ValueError) as error:
        convert_lora(tensors, names)
    assert_one_sentence(error.value)
    return str(error.value)


@by_layout()
def test_every_delta_is_alpha_over_rank_times_b_a(case):
    written = case.layout.make(case.shapes)
    assert_deltas(convert_lora(written.tensors, case.names).transformer, written.deltas)


@by_layout("diffusers", "kohya", "OneTrainer", "OneTrainer with dots", "LoKr by LyCORIS", "LoKr fused by diffusers")
def test_every_linear_layer_of_flux_has_a_name_in_the_layout(case):
    found = convert_lora(case.layout.make(case.shapes).tensors, case.names)
    assert found.transformer.keys() == case.shapes.keys()


@by_layout()
def test_all_tensors_are_in_fp32_whatever_the_file_has(case):
    tensors = {name: tensor.bfloat16() for name, tensor in case.layout.make(case.shapes).tensors.items()}
    for delta in convert_lora(tensors, case.names).transformer.values():
        assert {tensor.dtype for tensor in delta.tensors} == {torch.float32}


@by_layout()
def test_an_unknown_layer_is_refused_by_its_name(case):
    tensors = case.layout.make(case.shapes).tensors | {"from.elsewhere.lora_A.weight": torch.ones(3, 4)}
    expected = f"has from.elsewhere.lora_A.weight, which does not match any layer of {case.names.name}"
    assert refusal(tensors, case.names) == expected


@by_layout()
def test_a_tensor_that_is_no_part_of_a_lora_is_refused_by_its_name(case):
    tensors = case.layout.make(case.shapes).tensors | {"emb_params": torch.ones(3, 4), "string_to_param": torch.ones(3)}
    expected = f"has emb_params and 1 more, which do not match any layer of {case.names.name}; it is an embedding"
    assert refusal(tensors, case.names).startswith(expected)


@by_layout()
def test_no_tensor_but_an_alpha_is_optional(case):
    """Each matrix, or factor of a product, of the first layer is required."""
    tensors = case.layout.make(case.shapes).tensors
    first = next(iter(tensors)).rsplit(".", 3 if "weight" in next(iter(tensors)) else 1)[0]
    names = [name for name in tensors if name.startswith(f"{first}.") and not name.endswith(".alpha")][:2]
    for name in names:
        message = refusal({key: tensor for key, tensor in tensors.items() if key != name}, case.names)
        assert "incomplete" in message or "expected one of" in message, message


def test_two_matrices_of_different_ranks_are_refused(shapes):
    tensors = LAYOUTS["diffusers"].make(shapes).tensors
    name = "transformer.transformer_blocks.0.attn.to_q"
    message = refusal(tensors | {f"{name}.lora_B.weight": torch.ones(32, RANK + 1)})
    assert message == f"is inconsistent: the matrices of {name} have the ranks 3 and 4"


def test_layers_may_have_different_ranks(shapes):
    tensors = LAYOUTS["diffusers"].make(shapes).tensors
    name = "transformer.transformer_blocks.0.attn.to_q"
    deltas = convert_lora(
        tensors | {f"{name}.lora_A.weight": torch.ones(7, 32), f"{name}.lora_B.weight": torch.ones(32, 7)}, FLUX1
    ).transformer
    assert len(deltas["transformer_blocks.0.attn.to_q"].down) == 7
    assert len(deltas["transformer_blocks.0.attn.to_k"].down) == RANK


def test_a_layer_in_two_layouts_counts_once_if_it_is_the_same():
    tensors = {name: tensor.float() for name, tensor in random_lora(tiny_transformer()).items()}
    again = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    assert convert_lora(tensors | again, FLUX1).transformer.keys() == convert_lora(tensors, FLUX1).transformer.keys()


def test_a_layer_in_two_layouts_is_refused_if_it_differs(shapes):
    tensors = LAYOUTS["diffusers"].make(shapes).tensors | LAYOUTS["kohya"].make(shapes).tensors
    assert "two different weight deltas" in refusal(tensors)


@BOTH
@pytest.mark.parametrize("tensors", [{}, {"double_blocks.0.img_mlp.0.diff_b": torch.zeros(4)}])
def test_a_lora_that_changes_nothing_is_refused(tensors, names):
    assert refusal(tensors, names) == f"changes nothing: expected a LoRA on layers of {names.name}"


@by_layout("ComfyUI")
def test_zeros_for_what_was_not_trained_are_ignored(case):
    """ComfyUI saves them for biases, norms, position embeddings and text encoders."""
    written = case.layout.make(case.shapes)
    zeros = {
        "diffusion_model.double_blocks.0.img_mlp.0.diff_b": torch.zeros(128),
        "diffusion_model.double_blocks.0.img_attn.norm.key_norm.diff": torch.zeros(16),
        "text_encoders.clip_l.transformer.text_model.embeddings.position_embedding.lora_down.weight": torch.zeros(2, 4),
        "text_encoders.t5xxl.transformer.shared.lora_up.weight": torch.zeros(4, 2),
        "text_encoders.qwen3_4b.transformer.model.layers.0.mlp.up_proj.lora_up.weight": torch.zeros(4, 2),
    }
    assert_deltas(convert_lora(written.tensors | zeros, case.names).transformer, written.deltas)


def test_a_full_difference_beside_the_matrices_is_refused(shapes):
    name = "diffusion_model.double_blocks.0.img_mlp.0"
    message = refusal(LAYOUTS["ComfyUI"].make(shapes).tensors | {f"{name}.diff": torch.ones(128, 32)})
    assert message == f"has difference and lora for {name}: expected one of lora, hada, lokr, glora, difference"


@pytest.mark.parametrize(
    "prefix",
    [
        *("transformer.base_model.model.", "base_model.model.transformer.", "base_model.model.diffusion_model."),
        *("_orig_mod.", "transformer._orig_mod.", "module.", "base_model.model._orig_mod."),
    ],
)
@pytest.mark.parametrize(
    ("down", "up"),
    [
        *(("lora_A.weight", "lora_B.weight"), ("lora_A", "lora_B"), ("lora_A.my-style_2", "lora_B.my-style_2")),
        ("lora_A.person.weight", "lora_B.person.weight"),
    ],
)
def test_wrappers_and_names_of_adapters_make_no_difference(prefix, down, up, shapes):
    only = r"^transformer_blocks\.1\.attn\.to_q$"
    written = LAYOUTS["PEFT with the adapter's name"].make(shapes, only=only)
    factors = dict(zip((down, up), written.tensors.values(), strict=True))
    tensors = {f"{prefix}transformer_blocks.1.attn.to_q.{key}": tensor for key, tensor in factors.items()}
    assert_deltas(convert_lora(tensors, FLUX1).transformer, written.deltas)


def test_two_adapters_in_a_file_are_refused():
    name = "transformer.transformer_blocks.0.attn.to_q"
    tensors = {f"{name}.lora_{half}.{adapter}.weight": torch.ones(2, 2) for adapter in "ab" for half in "AB"}
    assert refusal(tensors).startswith(f"has both {name}.lora_A.a.weight and {name}.lora_A.b.weight")


def test_layers_of_hunyuan_video_are_not_mistaken_for_those_of_flux():
    """Both have double_blocks and the same widths."""
    name = "diffusion_model.double_blocks.0.img_attn_qkv.lora_A.weight"
    assert name in refusal({name: torch.ones(2, 32), name.replace("_A", "_B"): torch.ones(96, 2)})


@BOTH
def test_the_halves_of_the_final_modulation_of_the_original_flux_are_swapped(names):
    """BFL chunks into shift and scale, diffusers into scale and shift."""
    rows = torch.cat([torch.full((32, 1), 1.0), torch.full((32, 1), 2.0)])
    name = "lora_unet_final_layer_adaLN_modulation_1"
    tensors = {f"{name}.lora_down.weight": torch.ones(1, 32), f"{name}.lora_up.weight": rows}
    up = convert_lora(tensors, names).transformer["norm_out.linear"].up
    assert (up[:32] == 2).all()
    assert (up[32:] == 1).all()
    name = "lora_transformer_norm_out_linear"
    tensors = {f"{name}.lora_down.weight": torch.ones(1, 32), f"{name}.lora_up.weight": rows}
    assert torch.equal(convert_lora(tensors, names).transformer["norm_out.linear"].up, rows)


@pytest.mark.parametrize("layer", ["diffusion_model.final_layer.adaLN_modulation.1", "final_layer.adaLN_modulation.1"])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_final_modulation_without_two_halves_is_refused(layer, rows):
    message = refusal({f"{layer}.lora_A.weight": torch.ones(2, 32), f"{layer}.lora_B.weight": torch.ones(rows, 2)})
    assert message == f"has shape {rows} x 32 for norm_out.linear: expected an even number of rows"


def test_an_alpha_that_makes_a_layer_infinite_is_refused_by_the_layer():
    name = "lora_unet_double_blocks_0_img_mlp_0"
    tensors = {f"{name}.lora_down.weight": torch.ones(1, 32), f"{name}.lora_up.weight": torch.full((128, 1), 1e5)}
    message = refusal(tensors | {f"{name}.alpha": torch.tensor(1e38)})
    assert message == f"has an alpha that makes {name} infinite: expected finite weights"
