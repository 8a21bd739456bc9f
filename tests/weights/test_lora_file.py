"""Files from untrusted sources are read as LoRAs, or refused with the end of one sentence. No pickle is unpickled."""

import io
import json
import pickle
import struct

import pytest
import torch
from safetensors.torch import save

from lora.formats.shapes import Shape
from tests.lora.formats.made import LAYOUTS
from tests.tiny import assert_one_sentence
from weights import lora_file
from weights.lora_file import parse_lora

ALPHA = "transformer.x_embedder.alpha"
DOWN, UP = "transformer.x_embedder.lora_A.weight", "transformer.x_embedder.lora_B.weight"


def a_lora(**changes):
    return {DOWN: torch.ones(2, 4), UP: torch.full((3, 2), 0.5)} | changes


def file_of(header, data=b""):
    """A safetensors file with any header, even an invalid one."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def with_adapter_metadata(metadata):
    text = metadata if isinstance(metadata, str) else json.dumps(metadata)
    return save(a_lora(), metadata={"lora_adapter_metadata": text})


def a_torch_file():
    file = io.BytesIO()
    torch.save(a_lora(), file)
    return file.getvalue()


def refusal(content):
    with pytest.raises(ValueError) as error:
        parse_lora(content)
    assert_one_sentence(error.value)
    return str(error.value)


def test_a_lora_is_read_unchanged():
    tensors = parse_lora(save(a_lora())).tensors
    assert all(torch.equal(tensors[name], tensor) for name, tensor in a_lora().items())


@pytest.mark.parametrize(
    "dtype",
    [
        *(torch.float32, torch.float16, torch.bfloat16, torch.float64),
        *(torch.float8_e4m3fn, torch.float8_e5m2),
    ],
)
def test_every_float_is_read(dtype):
    assert parse_lora(save({DOWN: torch.ones(2, 4, dtype=dtype)})).tensors[DOWN].dtype == dtype


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file"),
        (pickle.dumps({"a": 1}), "a pickle, which can run code"),
        (a_torch_file(), "a pickle, which can run code"),
        (b"<!DOCTYPE html><html>Not found</html>", "a web page"),
        (b"\xef\xbb\xbf\r\n<!DOCTYPE html><html>Not found</html>", "a web page"),
        (b"\x11\x22\x33", "3 other bytes"),
        (bytes(range(64, 192)) * 8, "1,024 other bytes"),
        (struct.pack("<Q", 0x480) + b"{}", "10 other bytes"),
        (save(a_lora())[:50], "50 other bytes"),
        (file_of(b"{not json"), "other bytes"),
        (file_of([1, 2]), "other bytes"),
        (file_of({DOWN: 5}), "other bytes"),
        (file_of(b"\xff\xfe{}"), "other bytes"),
        (file_of(b"[" * 100_000), "other bytes"),
        (struct.pack("<Q", 2**63) + b"{}" * 50, "other bytes"),
    ],
)
def test_the_error_for_another_format_names_it(content, found):
    message = refusal(content)
    assert found in message
    assert "expected a LoRA in safetensors format" in message


def test_a_pickle_is_not_executed(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    refusal(pickle.dumps(Trap()))
    assert not (tmp_path / "ran").exists()


def test_a_header_longer_than_the_limit_is_not_parsed(monkeypatch):
    monkeypatch.setattr(lora_file, "MAX_HEADER_BYTES", 100)
    assert "not a safetensors file" in refusal(save(a_lora()))


def test_a_duplicate_name_is_refused():
    text = f'{{"{DOWN}":{json.dumps(entry())},"{DOWN}":{json.dumps(entry())}}}'.encode()
    message = refusal(file_of(text, bytes(4)))
    assert DOWN in message
    assert "twice" in message


def test_a_number_with_too_many_digits_is_refused():
    text = f'{{"{DOWN}":{{"dtype":"F32","shape":[1{"0" * 5000}],"data_offsets":[0,4]}}}}'.encode()
    assert refusal(file_of(text)) == "holds a number of 5,001 digits in its header: expected an undamaged file"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_refused(value):
    broken = torch.ones(2, 4)
    broken[1, 2] = value
    assert f"NaN or infinity in {DOWN}" in refusal(save(a_lora(**{DOWN: broken})))


def test_weights_that_are_whole_numbers_are_refused():
    message = refusal(save(a_lora(**{DOWN: torch.ones(2, 4, dtype=torch.int8)})))
    assert f"{DOWN} as 'I8'" in message
    assert "BF16, F16, F32" in message


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_an_alpha_may_be_a_whole_number(dtype):
    """The default of sd-scripts is one of 64 bits."""
    assert parse_lora(save(a_lora() | {ALPHA: torch.tensor(1, dtype=dtype)})).tensors[ALPHA] == 1


def test_an_alpha_may_be_infinite_if_it_has_no_effect():
    """ai-toolkit stores 1e10 in fp16 with a LoKr; lora.formats refuses one that has an effect."""
    infinite = torch.tensor(1e10).half()
    assert parse_lora(save(a_lora() | {ALPHA: infinite})).tensors[ALPHA] == infinite


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_infinity_is_found_in_8_bits(dtype):
    broken = torch.tensor([[float("nan"), 1]]).to(dtype)
    assert f"NaN or infinity in {DOWN}" in refusal(save(a_lora(**{DOWN: broken})))


@pytest.mark.parametrize(
    "name",
    [
        *("lora_unet_img_in.oft_blocks", "lora_unet_img_in.on_input", "emb_params", "transformer.x_embedder.diff"),
        *("transformer.x_embedder.diff_b", "lycoris_x_embedder.a1.weight", "lycoris_norm.w_norm", "x_embedder.lora_A"),
        *("diffusion_model.img_in.set_weight", "base_model.model.x_embedder.lora_A.person.weight"),
    ],
)
def test_what_formats_reads_or_names_is_not_refused_before(name):
    assert parse_lora(save({name: torch.ones(2, 4)})).tensors.keys() == {name}


@pytest.mark.parametrize("dtype", [[], {}, None, 7])
def test_a_precision_that_is_not_a_string_is_refused(dtype):
    assert f"{DOWN} as '{dtype}'" in refusal(file_of({DOWN: entry(dtype=dtype)}, bytes(4)))


HOSTILE = "\x1b[31m\r\n\u202e\x9b" + "x" * 5000


@pytest.mark.parametrize(
    "content",
    [
        file_of({DOWN: entry(dtype=HOSTILE)}, bytes(4)),
        file_of({DOWN: entry(shape=[HOSTILE])}, bytes(4)),
        file_of({DOWN: entry(offsets=[HOSTILE, 4])}, bytes(4)),
        file_of({DOWN: entry() | {HOSTILE: 1}, UP: entry(offsets=(8, 12))}, bytes(4)),
        file_of({DOWN: entry(), HOSTILE: entry()}, bytes(4)),
        file_of({DOWN: entry(), "__metadata__": {HOSTILE: 5}}, bytes(4)),
        file_of({DOWN: entry(), "__metadata__": {"format": [HOSTILE]}}, bytes(4)),
        with_adapter_metadata({"transformer.r": HOSTILE, "transformer.lora_alpha": 1}),
        with_adapter_metadata(
            {"transformer.r": 2, "transformer.lora_alpha": 1, "transformer.rank_pattern": {HOSTILE: 1}}
        ),
    ],
    ids=["dtype", "shape", "offset", "field", "name", "metadata key", "metadata", "rank", "pattern"],
)
def test_an_error_repeats_text_of_the_file_only_short_and_printable(content):
    message = refusal(content)
    assert message.isprintable(), ascii(message)
    assert len(message) < 400


@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
def test_an_empty_tensor_is_refused(shape):
    assert "of the shape" in refusal(file_of({DOWN: entry(shape=shape, offsets=(0, 0))}))


@pytest.mark.parametrize("name", [f"{'x' * 1000}{DOWN}", f"a\n{DOWN}"])
def test_a_long_or_unprintable_name_is_refused(name):
    assert len(refusal(file_of({DOWN: entry(), name: entry()}, bytes(4)))) < 400


def test_an_alpha_that_makes_a_weight_infinite_is_refused():
    metadata = {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 1e5, "transformer.r": 2})}
    content = a_lora(**{UP: torch.full((3, 2), 1e38)})
    assert "NaN or infinity" in refusal(save(content, metadata=metadata))


def test_a_full_model_is_refused():
    assert "is not a LoRA: none of its 1 tensors" in refusal(save({"transformer.x_embedder.weight": torch.ones(2, 2)}))
    assert "is not a LoRA" in refusal(save({}))


def test_too_many_tensors_are_refused(monkeypatch):
    monkeypatch.setattr(lora_file, "MAX_TENSORS", 1)
    assert "holds 2 tensors" in refusal(save(a_lora()))


@pytest.mark.parametrize("offsets", [(0, 8), (0, 400), (4, 0), (8, 12)])
def test_wrong_offsets_are_refused(offsets):
    assert "damaged" in refusal(file_of({DOWN: entry(offsets=offsets)}, bytes(4)))


def test_a_file_with_truncated_data_is_refused():
    assert "damaged" in refusal(save(a_lora())[:-4])


def test_the_alpha_in_diffusers_metadata_is_folded_into_b():
    """Trap 24."""
    tensors = parse_lora(with_adapter_metadata({"transformer.r": 2, "transformer.lora_alpha": 4})).tensors
    assert torch.equal(tensors[UP], 2 * a_lora()[UP])
    assert torch.equal(tensors[DOWN], a_lora()[DOWN])


def test_the_alphas_of_the_transformer_and_of_a_text_encoder_are_distinguished():
    name = "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_{}.weight"
    tensors = a_lora() | {name.format("A"): torch.ones(2, 4), name.format("B"): torch.ones(3, 2)}
    alphas = {"text_encoder.r": 2, "text_encoder.lora_alpha": 6, "transformer.r": 2, "transformer.lora_alpha": 4}
    read = parse_lora(save(tensors, metadata={"lora_adapter_metadata": json.dumps(alphas)})).tensors
    assert torch.equal(read[name.format("B")], 3 * torch.ones(3, 2))
    assert torch.equal(read[UP], 2 * a_lora()[UP])


def test_the_alpha_in_metadata_is_folded_into_the_bias_of_b_too():
    bias = "transformer.x_embedder.lora_B.bias"
    metadata = {"lora_adapter_metadata": json.dumps({"transformer.r": 2, "transformer.lora_alpha": 4})}
    tensors = parse_lora(save(a_lora() | {bias: torch.ones(3)}, metadata=metadata)).tensors
    assert torch.equal(tensors[bias], 2 * torch.ones(3))


def test_two_alphas_of_one_layer_are_refused():
    metadata = {"lora_adapter_metadata": json.dumps({"transformer.r": 2, "transformer.lora_alpha": 4})}
    tensors = a_lora() | {"transformer.x_embedder.alpha": torch.tensor(4.0)}
    assert "and another in transformer.x_embedder.alpha" in refusal(save(tensors, metadata=metadata))


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_lora_of_any_layout_is_read(name):
    shapes = {f"single_transformer_blocks.0.attn.{part}": Shape(8, 8) for part in ("to_q", "to_k", "to_v")}
    shapes |= {
        "single_transformer_blocks.0.proj_out": Shape(16, 8),
        "single_transformer_blocks.0.proj_mlp": Shape(8, 8),
    }
    tensors = LAYOUTS[name].make(shapes).tensors
    assert parse_lora(save(tensors)).tensors.keys() == tensors.keys()


def test_an_alpha_equal_to_the_rank_changes_nothing():
    tensors = parse_lora(with_adapter_metadata({"transformer.r": 2, "transformer.lora_alpha": 2})).tensors
    assert torch.equal(tensors[UP], a_lora()[UP])


def test_a_folded_alpha_is_not_rounded_to_the_precision_of_the_file():
    tensors = a_lora(**{UP: torch.full((3, 2), 0.7).bfloat16()})
    metadata = {"lora_adapter_metadata": json.dumps({"transformer.r": 2, "transformer.lora_alpha": 1.4})}
    assert torch.equal(parse_lora(save(tensors, metadata=metadata)).tensors[UP], tensors[UP].float() * 0.7)


def test_metadata_that_contradicts_the_file_is_refused():
    message = refusal(with_adapter_metadata({"transformer.r": 99999, "transformer.lora_alpha": 16}))
    assert message == "has the rank 2 at x_embedder and 99999 in its lora_adapter_metadata: expected one of them"


def test_metadata_that_cannot_be_read_is_refused():
    assert "lora_adapter_metadata that cannot be parsed" in refusal(with_adapter_metadata("no json"))
