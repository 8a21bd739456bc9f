"""A model card gives the page a trigger word and prompts, whoever wrote it and wherever it is."""

import io
import tarfile

import pytest
from safetensors.torch import save_file

from deploy.space.card import LoraCard, hub_repository, local_card, parsed_card, published_card
from tests.fake_hub import WRITE, Repository, fake_hub
from tests.tiny import one_layer_lora, write

CARD = """---
instance_prompt: TOK
widget:
- text: TOK on a beach
  output:
    url: samples/a.jpg
- text: '-'
- text: TOK on a beach
- text: "a <b>TOK</b>\\n| in the desert"
---
# A LoRA
"""
READ = LoraCard("TOK", ("TOK on a beach", "a <b>TOK</b> | in the desert"))


@pytest.mark.parametrize(
    ("text", "card"),
    [
        (CARD, READ),
        ("", LoraCard()),
        ("# no metadata", LoraCard()),
        ("---\n- a\n- b\n---\n", LoraCard()),
        ("---\nwidget: [\n---\n", LoraCard()),
        ("---\ninstance_prompt: 5\nwidget: {text: x}\n---\n", LoraCard()),
        ("---\nwidget: [x, {text: [y]}, {text: null}, {src: z}]\n---\n", LoraCard()),
        ("---\ninstance_prompt: !!python/object/apply:os.getcwd []\n---\n", LoraCard()),
        (f"---\ninstance_prompt: {'x' * 9000}\n---\n", LoraCard("x" * 500)),
        (f"---\ninstance_prompt: {'{a: ' * 1000}1{'}' * 1000}\n---\n", LoraCard()),
    ],
)
def test_what_cannot_be_read_is_left_out(text, card):
    assert parsed_card(text) == card


@pytest.mark.parametrize("kind", ["tar", "folder", "file"])
def test_the_card_of_a_local_lora_is_in_its_tar_in_its_folder_or_beside_it(tmp_path, kind):
    write(tmp_path / "README.md", CARD.encode())
    save_file(one_layer_lora(), tmp_path / "lora.safetensors")
    with tarfile.open(tmp_path / "trained_model.tar", "w") as tar:
        member = tarfile.TarInfo("output/flux_train_replicate/README.md")
        member.size = len(CARD)
        tar.addfile(member, io.BytesIO(CARD.encode()))
    references = {"tar": "trained_model.tar", "folder": "", "file": "lora.safetensors"}
    assert local_card(str(tmp_path / references[kind])) == READ


def test_a_file_without_a_card_has_its_trigger_word_in_its_metadata(tmp_path):
    save_file(one_layer_lora(), tmp_path / "lora.safetensors", {"modelspec.trigger_phrase": "TOK"})
    assert local_card(str(tmp_path / "lora.safetensors")) == LoraCard("TOK")


@pytest.mark.parametrize("reference", ["no-such.tar", "https://example.com/lora.safetensors", "?", "/"])
def test_a_reference_without_a_card_has_an_empty_one(reference):
    assert local_card(reference) == published_card(reference, token="") == LoraCard()


@pytest.mark.parametrize(
    "reference", ["hf://me/lora", "me/lora", "https://huggingface.co/me/lora", "hf://me/lora@v1/a.safetensors"]
)
def test_a_reference_to_the_hub_names_its_repository(reference):
    assert hub_repository(reference) == "me/lora"


def test_the_card_of_a_repository_is_read_with_the_token_of_the_deployment_only(monkeypatch):
    with fake_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", WRITE)
        hub.repositories["me/lora"] = Repository(is_private=True, files={"README.md": CARD.encode()})
        assert published_card("hf://me/lora", token="") == LoraCard()
        assert hub.count("/me/lora/resolve/main/README.md") == 1, "the visitor's request was anonymous"
        assert published_card("hf://me/lora", token=WRITE) == READ
