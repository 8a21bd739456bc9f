"""What PEFT's save_pretrained writes has the strength that PEFT gives it, from a folder, a file, a tar and a Hub
repository."""

import base64
import io
import json
import tarfile

import pytest
import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch import nn

from lora.formats.layer_names.flux1 import FLUX1
from lora.formats.reading import convert_lora
from tests.services import a_network, send, send_from, send_json, service
from tests.tiny import assert_one_sentence
from weights.cache.store import CacheLimits, Store
from weights.references import open_lora, read_lora

LAYERS = {f"transformer_blocks.0.attn.{name}": name for name in ("to_q", "to_k", "add_q_proj")}
CONFIGS = {
    "alpha": LoraConfig(r=4, lora_alpha=16),
    "rsLoRA": LoraConfig(r=4, lora_alpha=16, use_rslora=True),
    "patterns": LoraConfig(r=4, lora_alpha=16, rank_pattern={"to_q": 2}, alpha_pattern={"to_k": 3, "attn.to_q": 5}),
    "fan_in_fan_out": LoraConfig(r=4, lora_alpha=16, fan_in_fan_out=True),
    "bias": LoraConfig(r=4, lora_alpha=16, lora_bias=True),
    "DoRA": LoraConfig(r=4, lora_alpha=16, use_dora=True),
    "LoHa": LoHaConfig(r=4, alpha=16),
    "LoKr": LoKrConfig(r=2, alpha=16, alpha_pattern={"to_k": 3}),
    "LoKr of two products": LoKrConfig(r=1, alpha=16, decompose_both=True),
}


class Block(nn.Module):
    """Attention layers with the names of FLUX.1."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.ModuleDict({name: nn.Linear(16, 16) for name in LAYERS.values()})


class Model(nn.Module):
    """A block of FLUX.1, as far as PEFT sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer_blocks = nn.ModuleList([Block()])


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def save_adapter(folder, config):
    """Save a random adapter. Returns the base's state, and the state that PEFT merges."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config.target_modules = set(LAYERS.values())
        model = Model()
        base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        adapter = get_peft_model(model, config)
        for name, parameter in adapter.named_parameters():
            if any(part in name for part in ("lora_", "hada_", "lokr_")):
                parameter.data.add_(torch.randn_like(parameter), alpha=0.3)
        adapter.save_pretrained(folder)
        return base, adapter.merge_and_unload().state_dict()


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A folder with an adapter of strength 4."""
    folder = tmp_path_factory.mktemp("adapter")
    save_adapter(folder, LoraConfig(r=4, lora_alpha=16))
    return folder


def a_tar(folder, *, folder_of_settings="any"):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, f"{folder_of_settings if path.suffix == '.json' else 'any'}/{path.name}")
    return file.getvalue()


def changes(lora, base):
    """What a LoRA adds to each parameter."""
    found = convert_lora(lora.tensors, FLUX1)
    deltas = {
        f"{name}.weight": delta.resolved(lambda layer: base[f"{layer}.weight"]).matrix(torch.device("cpu"))
        for name, delta in found.transformer.items()
    }
    return deltas | {f"{name.layer}.{name.parameter}": vector for name, vector in found.vectors.items()}


def strength(lora, folder):
    """How many times as strong a LoRA is as its file without alpha."""
    alone = read_lora(uri(folder), named="x").tensors
    name = next(name for name in alone if name.endswith("lora_B.weight"))
    return (lora.tensors[name] / alone[name]).mean().item()


def uri(folder):
    content = (folder / "adapter_model.safetensors").read_bytes()
    return f"data:application/octet-stream;base64,{base64.b64encode(content).decode()}"


@pytest.mark.parametrize("name", CONFIGS)
def test_the_weights_are_those_that_peft_merges(name, tmp_path):
    base, merged = save_adapter(tmp_path, CONFIGS[name])
    lora = read_lora(str(tmp_path / "adapter_model.safetensors"), named="lora_weights")
    found = changes(lora, base)
    expected = {name: merged[name] - base[name] for name in merged if not torch.equal(merged[name], base[name])}
    assert found.keys() == expected.keys()
    for parameter, change in expected.items():
        assert (found[parameter] - change).norm() < 1e-5 * change.norm() + 1e-6, parameter
    assert lora.notes == ()


def test_a_folder_and_a_tar_are_read_with_their_settings(adapter, tmp_path):
    (tmp_path / "x.tar").write_bytes(a_tar(adapter))
    loras = [read_lora(str(each), named="x") for each in (adapter, tmp_path / "x.tar")]
    assert [strength(lora, adapter) for lora in loras] == [4, 4]
    assert loras[0].digest == loras[1].digest


def test_the_settings_of_another_folder_do_not_count(adapter, tmp_path):
    (tmp_path / "x.tar").write_bytes(a_tar(adapter, folder_of_settings="other"))
    lora = read_lora(str(tmp_path / "x.tar"), named="x")
    assert strength(lora, adapter) == 1
    assert "alpha is not known" in lora.notes[0]


def test_a_lone_file_says_that_its_alpha_is_not_known(adapter):
    lora = read_lora(uri(adapter), named="x")
    assert strength(lora, adapter) == 1
    (note,) = lora.notes
    assert note.startswith("was saved by PEFT without its adapter_config.json: its alpha is not known")


def test_the_strength_changes_with_the_settings(adapter, tmp_path):
    """The digest and the cache key must not be those of the file alone."""
    file, config = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
    file.write_bytes((adapter / file.name).read_bytes())
    settings = json.loads((adapter / config.name).read_text())
    found = []
    for alpha in (16, 8):
        config.write_text(json.dumps(settings | {"lora_alpha": alpha}))
        with open_lora(str(file), named="x") as opened:
            lora = opened.read()
            found.append((opened.cache_key, lora.digest, strength(lora, adapter)))
    assert [each[2] for each in found] == [4, 2]
    assert found[0][0] != found[1][0]
    assert found[0][1] != found[1][1]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"r": 8}, "has the rank 4 at transformer_blocks.0.attn"),
        ({"peft_type": "OFT"}, "is an adapter of the kind 'OFT'"),
        ({"peft_type": "IA3"}, "is an adapter of the kind 'IA3'"),
        ({"init_lora_weights": "pissa_niter_4"}, "was trained on a changed base, by 'pissa_niter_4'"),
        ({"use_dora": True}, "is a DoRA, by use_dora in its adapter_config.json"),
        ({"lora_alpha": "16"}, "has '16' for lora_alpha in its adapter_config.json"),
        ({"alpha_pattern": {"(a+)+$": 1}}, "has a alpha_pattern in its adapter_config.json"),
    ],
)
def test_settings_that_contradict_the_file_are_refused(adapter, tmp_path, change, found):
    for path in adapter.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(ValueError) as error:
        read_lora(str(tmp_path / "adapter_model.safetensors"), named="lora_weights")
    assert_one_sentence(error.value, found)


def test_settings_beside_a_lora_that_peft_did_not_save_have_no_effect(adapter, tmp_path):
    tensors = {"transformer.x_embedder.lora_A.weight": torch.ones(3, 4)}
    tensors |= {"transformer.x_embedder.lora_B.weight": torch.ones(4, 3)}
    save_file(tensors, tmp_path / "lora.safetensors")
    before = read_lora(str(tmp_path / "lora.safetensors"), named="x")
    (tmp_path / "adapter_config.json").write_bytes((adapter / "adapter_config.json").read_bytes())
    assert read_lora(str(tmp_path / "lora.safetensors"), named="x").digest == before.digest


class Repository:
    """A repository on Hugging Face with the files of a folder."""

    def __init__(self, folder):
        self.files = {path.name: path.read_bytes() for path in folder.iterdir()}

    def __call__(self, request, _):
        name = request.path.rsplit("/", 1)[-1]
        if request.path.startswith("/api/"):
            siblings = [{"rfilename": name, "size": len(content)} for name, content in self.files.items()]
            send_json(request, {"sha": "c0ffee", "siblings": siblings})
        elif name in self.files:
            send_from(request, self.files[name], etag='"1"')
        else:
            send(request, status=404)


def test_a_repository_is_read_with_its_settings_also_from_the_cache(adapter, tmp_path):
    hub = Repository(adapter)
    store = Store(tmp_path, CacheLimits(spare_bytes=0, fresh_seconds=600))
    with service(hub) as server:
        network = a_network(server, hugging_face=server.url)
        for _ in range(2):
            lora = read_lora("hf://o/r", named="x", network=network, store=store)
            assert strength(lora, adapter) == 4
        assert len(server.requests) == 3


def test_changed_settings_of_a_repository_are_noticed(adapter, tmp_path):
    hub = Repository(adapter)
    store = Store(tmp_path, CacheLimits(spare_bytes=0, fresh_seconds=0))
    with service(hub) as server:
        network = a_network(server, hugging_face=server.url)
        first = read_lora("hf://o/r", named="x", network=network, store=store)
        settings = json.loads(hub.files["adapter_config.json"])
        hub.files["adapter_config.json"] = json.dumps(settings | {"lora_alpha": 8}).encode()
        second = read_lora("hf://o/r", named="x", network=network, store=store)
    assert (strength(first, adapter), strength(second, adapter)) == (4, 2)
