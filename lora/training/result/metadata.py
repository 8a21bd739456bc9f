"""The metadata of a LoRA file, with the keys that ComfyUI, A1111 and LoRA managers show. Knows no file.

`ss_` and `sshs_` are keys of kohya's sd-scripts, `modelspec.` are keys of Stability's ModelSpec 1.0.1. There are no
times and no names of people, as the same training gives the same bytes.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import PurePath
from typing import Literal

from safetensors.torch import save
from torch import Tensor

from lora.base.family import FileIdentity
from lora.base.presets import EDIT
from lora.dataset.captions import PromptRule
from lora.training.result.known_bases import known_base

Layout = Literal["diffusers", "kohya"]

TAGS = "ss_tag_frequency"
PRIVATE_SETTINGS = ("sample_prompts", "autocaption_prefix", "autocaption_suffix")  # captions, and parts of them
MAX_TAGS, LONGEST_TAG = 200, 100  # sentences are no tags, and the header of the file stays small
DOWNS = (".lora_A.weight", ".lora_down.weight")  # each layer has one of these
LENGTH_BYTES = 8  # a safetensors file begins with the length of its header
LEGACY_START, LEGACY_BYTES, LEGACY_DIGITS = 0x100000, 0x10000, 8
NOT_IN_A_NAME = re.compile(r"[^\w-]+")  # A1111 uses the output name in <lora:name:1>


def lora_metadata(
    settings: Mapping[str, object],
    identity: FileIdentity,
    *,
    captions: Sequence[str],
    tensors: Mapping[str, Tensor],
    layout: Layout,
) -> dict[str, str]:
    """All metadata of a LoRA file with these tensors, for a base with this identity; `captions` are the prompts of its
    training.

    Raises TypeError for a setting that is no plain value, such as a path.
    """
    training = _training(settings, identity, captions, tensors)
    if layout == "kohya":
        training["ss_network_module"] = identity.network_module
    model_hash, legacy_hash = _hashes(tensors, training)
    return {
        "format": "pt",
        **_modelspec(settings, identity),
        "modelspec.hash_sha256": f"0x{model_hash}",
        **training,
        "sshs_model_hash": model_hash,
        "sshs_legacy_hash": legacy_hash,
        "trainer_config": json.dumps(dict(settings)),
    }


def without_captions(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """The metadata of a LoRA for others: without tags other than the trigger word, and without prompts and paths.

    Raises ValueError if the metadata are not those that `lora_metadata` returns.
    """
    settings = {k: v for k, v in json.loads(metadata["trainer_config"]).items() if k not in PRIVATE_SETTINGS}
    settings["base_model"] = PurePath(str(settings["base_model"])).name
    training = {name: value for name, value in metadata.items() if name.startswith("ss_")}
    trigger = settings["trigger_word"]
    tags = {tag: count for tag, count in json.loads(training[TAGS])["img"].items() if tag == trigger}
    training[TAGS] = json.dumps({"img": tags})
    model_hash, legacy_hash = _hashes(tensors, training)
    hashes = {"sshs_model_hash": model_hash, "sshs_legacy_hash": legacy_hash}
    return {**metadata, **training, **hashes, "trainer_config": json.dumps(settings)}


def _modelspec(settings: Mapping[str, object], identity: FileIdentity) -> dict[str, str]:
    trigger, kind, resolutions = str(settings["trigger_word"]), str(settings["lora_type"]), settings["resolutions"]
    side = max(resolutions) if isinstance(resolutions, tuple) else ""
    return {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{identity.architecture}/lora",
        "modelspec.implementation": identity.implementation,
        "modelspec.title": f"{trigger} LoRA".strip(),
        "modelspec.resolution": f"{side}x{side}",
        "modelspec.trigger_phrase": trigger,
        "modelspec.usage_hint": _usage_hint(trigger, kind),
        "modelspec.license": known_base(str(settings["base_model"])).terms.licence,
        "modelspec.tags": f"flux, lora, {kind}",
    }


def _usage_hint(trigger: str, kind: str) -> str:
    if kind == EDIT:
        word = f", with {trigger} in it" if trigger else ""
        return f"Give the image to edit as a reference, and the instruction as the prompt{word}"
    if not trigger:
        return "There is no trigger word: prompt as without the LoRA"
    example = f"a picture in the style of {trigger}" if kind == "style" else f"a photo of {trigger}"
    return f"Say {trigger} in the prompt, such as '{example}'"


def _training(
    settings: Mapping[str, object], identity: FileIdentity, captions: Sequence[str], tensors: Mapping[str, Tensor]
) -> dict[str, str]:
    trigger, rank = str(settings["trigger_word"]), str(settings["lora_rank"])
    layers = sum(name.endswith(DOWNS) for name in tensors)
    return {
        "ss_output_name": NOT_IN_A_NAME.sub("_", trigger).strip("_") or "lora",
        "ss_base_model_version": identity.base_model_version,
        "ss_network_dim": rank,
        "ss_network_alpha": rank,
        "ss_network_args": json.dumps({"layers": layers}),
        "ss_learning_rate": str(settings["learning_rate"]),
        "ss_optimizer": str(settings["optimizer"]),
        "ss_lr_scheduler": str(settings["lr_scheduler"]),
        "ss_max_train_steps": str(settings["steps"]),
        "ss_num_train_images": str(settings["images"]),
        "ss_caption_dropout_rate": str(settings["caption_dropout_rate"]),
        "ss_seed": str(settings["seed"]),
        "ss_resolution": json.dumps(settings["resolutions"]),
        TAGS: json.dumps({"img": _tags(captions, trigger)}),
    }


def _tags(captions: Sequence[str], trigger: str) -> dict[str, int]:
    """Tags and the number of captions that have each, most frequent first. Tags are the parts of captions between
    commas, and the trigger word."""
    rule = PromptRule(trigger, "", "")
    tags: Counter[str] = Counter()
    for caption in captions:
        mentioned = [trigger] if rule.mentions_trigger(caption) else []
        parts = (part.strip() for part in caption.split(","))
        tags.update({tag for tag in chain(mentioned, parts) if 0 < len(tag) <= LONGEST_TAG})
    ranked = sorted(tags.items(), key=lambda tag: (-tag[1], tag[0]))
    return dict(ranked[:MAX_TAGS])


def _hashes(tensors: Mapping[str, Tensor], training: Mapping[str, str]) -> tuple[str, str]:
    """The two hashes of sd-scripts (train_util.precalculate_safetensors_hashes): of the tensors' bytes as safetensors
    lays them out, and of the 64 KiB that follow the first MiB of a file with `ss_` metadata only."""
    content = memoryview(save(dict(tensors), metadata=dict(training)))
    start = LENGTH_BYTES + int.from_bytes(content[:LENGTH_BYTES], "little")
    legacy = hashlib.sha256(content[LEGACY_START : LEGACY_START + LEGACY_BYTES]).hexdigest()
    return hashlib.sha256(content[start:]).hexdigest(), legacy[:LEGACY_DIGITS]
