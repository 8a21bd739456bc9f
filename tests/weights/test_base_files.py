"""Missing and damaged files of a base are reported before it is loaded; a complete base passes."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file
from transformers import T5EncoderModel

from tests.base_services import small_base
from tests.tiny import TINY_FLUX, assert_one_sentence, linked_base, replace
from weights.base_files import check_folder, is_layout_file, weight_files
from weights.base_kind import FLUX1, KLEIN

TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"
T5 = "text_encoder_2/model.safetensors"
T5_INDEX = f"{T5}.index.json"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9524621312\n"


@pytest.fixture
def base(tmp_path):
    """tiny-flux as a folder of links, which a test may replace with files."""
    return linked_base(tmp_path / "base")


@pytest.fixture
def klein(tmp_path):
    """A small FLUX.2 [klein], whose tokenizer has its chat template in a file of its own."""
    return small_base(tmp_path / "base", KLEIN)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """The T5 encoder of tiny-flux in several files."""
    folder = tmp_path_factory.mktemp("shards")
    T5EncoderModel.from_pretrained(TINY_FLUX / "text_encoder_2").save_pretrained(folder, max_shard_size="500KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    return folder


@pytest.fixture
def sharded(base, shards):
    """tiny-flux with its T5 encoder in several files."""
    shutil.rmtree(base / "text_encoder_2")
    shutil.copytree(shards, base / "text_encoder_2")
    return base


def change_json(file, **changes):
    replace(file, json.dumps(json.loads(file.read_bytes()) | changes).encode())


def refusal(base, kind):
    with pytest.raises(kind) as error:
        check_folder(base)
    assert type(error.value) is kind
    assert_one_sentence(error.value, str(base))
    return str(error.value)


def test_a_complete_base_passes(base):
    check_folder(base)


def test_a_complete_klein_passes(klein):
    check_folder(klein)


def test_a_base_with_shards_passes(sharded):
    check_folder(sharded)


@pytest.mark.parametrize(
    "name",
    [
        "transformer/config.json",
        "text_encoder/config.json",
        "text_encoder_2/config.json",
        "vae/config.json",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer_2/tokenizer_config.json",
        TRANSFORMER,
        T5,
        "text_encoder/model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ],
)
def test_a_missing_file_is_named(base, name):
    (base / name).unlink()
    assert f"{base / name} is missing" in refusal(base, FileNotFoundError)


COMPONENTS = [(kind, component) for kind in (FLUX1, KLEIN) for component in kind.components]
NAMES = [f"{kind.name} {component.name}" for kind, component in COMPONENTS]


@pytest.mark.parametrize(("kind", "component"), COMPONENTS, ids=NAMES)
def test_a_missing_component_is_named(tmp_path, kind, component):
    base = linked_base(tmp_path / "base") if kind is FLUX1 else small_base(tmp_path / "base", kind)
    check_folder(base)
    (base / component.name / component.config).unlink()
    assert f"{base / component.name / component.config} is missing" in refusal(base, FileNotFoundError)
    shutil.rmtree(base / component.name)
    assert f"{base / component.name}/" in refusal(base, FileNotFoundError)
    change_json(base / "model_index.json", **{component.name: None})
    assert f"has no {component.name}: expected all components of {kind.name}" in refusal(base, ValueError)


@pytest.mark.parametrize(
    ("component", "expected"), [("tokenizer", "vocab.json and merges.txt"), ("tokenizer_2", "spiece.model")]
)
def test_a_tokenizer_needs_a_vocabulary(base, component, expected):
    (base / component / "tokenizer.json").unlink()
    message = refusal(base, FileNotFoundError)
    assert f"{base / component} has no vocabulary: expected tokenizer.json or {expected}" in message


@pytest.mark.parametrize(
    ("component", "names"), [("tokenizer", ["vocab.json", "merges.txt"]), ("tokenizer_2", ["spiece.model"])]
)
def test_a_vocabulary_in_the_older_format_is_sufficient(base, component, names):
    (base / component / "tokenizer.json").unlink()
    for name in names:
        replace(base / component / name, b"{}")
    check_folder(base)


@pytest.mark.parametrize("content", [{"chat_template": "{{ messages }}"}, {}])
def test_a_chat_template_may_be_in_the_configuration_of_its_tokenizer_or_beside_it(klein, content):
    (klein / "tokenizer/chat_template.jinja").unlink()
    change_json(klein / "tokenizer/tokenizer_config.json", **content)
    if content:
        check_folder(klein)
    else:
        assert f"{klein / 'tokenizer'} has no chat template: expected chat_template.jinja, or" in refusal(
            klein, FileNotFoundError
        )


@pytest.mark.parametrize("in_config", [False, True])
@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ("{% for message in messages %}{{ message.content }}", "is damaged (Unexpected end of template"),
        ("{{ messages[7].content }}", "is damaged ("),
        ("{{ raise_exception('tools only') }}", "is damaged (tools only)"),
        ("<|im_start|>user", "leaves the prompt out"),
    ],
)
def test_a_chat_template_through_which_no_prompt_passes_is_refused(klein, template, found, in_config):
    file = klein / "tokenizer/chat_template.jinja"
    if not in_config:
        file.write_text(template)
        assert refusal(klein, ValueError).startswith(f"{file} {found}")
    elif template:  # without one, the error is another
        file.unlink()
        file = klein / "tokenizer/tokenizer_config.json"
        change_json(file, chat_template=[{"name": "default", "template": template}])
        assert refusal(klein, ValueError).startswith(f"{file} has a chat_template that {found}")


def test_a_chat_template_that_is_no_text_is_refused(klein):
    file = klein / "tokenizer/chat_template.jinja"
    file.write_bytes(b"\xff\xfe{{ messages }}")
    assert refusal(klein, ValueError).startswith(f"{file} is damaged: found 16 bytes that are no UTF-8")


@pytest.mark.parametrize(
    ("path", "belongs"),
    [
        ("tokenizer/chat_template.jinja", True),
        ("text_encoder/model-00001-of-00002.safetensors", True),
        ("text_encoder/generation_config.json", True),
        ("LICENSE.md", True),
        ("flux-2-klein-base-4b.safetensors", False),
        ("realism.jpg", False),
        ("transformer/flux-2-klein-base-4b.safetensors", False),
        ("text_encoder_3/config.json", False),
    ],
)
def test_of_a_repository_only_the_files_in_diffusers_layout_belong_to_a_base(path, belongs):
    assert is_layout_file(path) is belongs


@pytest.mark.parametrize("entry", [None, [None, None], "FluxTransformer2DModel", []])
def test_an_index_with_an_invalid_component_is_refused(base, entry):
    change_json(base / "model_index.json", transformer=entry)
    assert "model_index.json has no transformer" in refusal(base, ValueError)


@pytest.mark.parametrize("name", ["model_index.json", "vae/config.json", "tokenizer/tokenizer.json"])
@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "found 0 bytes that are no JSON"),
        (b'{"a": ', "found 6 bytes that are no JSON"),
        (b"\xff\xfe{}", "found 4 bytes that are no JSON"),
        (b"[" * 100_000, "found 100,000 bytes that are no JSON"),
        (b"[]", "holds a JSON list: expected an object"),
        (POINTER, "is a git-lfs pointer"),
    ],
)
def test_a_configuration_that_is_not_a_json_object_is_named(base, name, content, found):
    replace(base / name, content)
    assert f"{base / name} " in refusal(base, ValueError)
    assert found in refusal(base, ValueError)


def test_a_git_lfs_pointer_is_found_in_any_file(base):
    replace(base / "tokenizer_2" / "spiece.model", POINTER)
    assert f"{base / 'tokenizer_2' / 'spiece.model'} is a git-lfs pointer" in refusal(base, ValueError)


def test_a_huge_json_file_is_not_read(base):
    with (base / "vae" / "endless.json").open("wb") as file:
        file.truncate(2**40)
    assert "1,099,511,627,776 bytes: expected a JSON object of at most" in refusal(base, ValueError)


def test_an_incomplete_download_is_named(base):
    replace(base / f"{TRANSFORMER}.incomplete", b"")
    assert f"{TRANSFORMER}.incomplete is an incomplete download" in refusal(base, ValueError)


def test_truncated_weights_are_named(base):
    replace(base / TRANSFORMER, (TINY_FLUX / TRANSFORMER).read_bytes()[:-1000])
    assert f"{base / TRANSFORMER} is cut short, 1,000 bytes are missing" in refusal(base, ValueError)


def test_missing_shards_are_counted(sharded):
    files = sorted((sharded / "text_encoder_2").glob("*.safetensors"))
    files[1].unlink()
    files[2].unlink()
    found = f"{files[1]} is missing: found {len(files) - 2} of the {len(files)} files that {Path(T5_INDEX).name} names"
    assert found in refusal(sharded, FileNotFoundError)


def test_a_truncated_shard_is_named(sharded):
    file = max((sharded / "text_encoder_2").glob("*.safetensors"))
    replace(file, file.read_bytes()[:-1])
    assert f"{file} is cut short, 1 bytes are missing" in refusal(sharded, ValueError)


@pytest.mark.parametrize("name", ["../vae/x.safetensors", "/etc/passwd", "a\n.safetensors", ".safetensors", "a.bin", 7])
def test_an_index_may_only_name_files_in_its_own_folder(sharded, name):
    change_json(sharded / T5_INDEX, weight_map={"shared.weight": name})
    assert f"names the file {name!r}" in refusal(sharded, ValueError)


@pytest.mark.parametrize("weight_map", [{}, [], None])
def test_an_empty_index_is_refused(sharded, weight_map):
    change_json(sharded / T5_INDEX, weight_map=weight_map)
    assert "names no files: expected a weight_map" in refusal(sharded, ValueError)


def test_weight_files_are_complete_and_in_loading_order(sharded):
    files = weight_files(sharded)
    assert sorted(files) == sorted(sharded.glob("*/*.safetensors"))
    components = list(dict.fromkeys(file.parent.name for file in files))
    assert components == [
        name for name in json.loads((sharded / "model_index.json").read_bytes()) if name in components
    ]
    assert sum(len(load_file(file)) for file in files) > len(files)
