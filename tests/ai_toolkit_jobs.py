"""Job files as users of ai-toolkit have them, written anew: like its FLUX.1-dev example, and the public trainer's."""

import copy
import functools
from pathlib import Path
from typing import Any

import yaml

from script.ai_toolkit.config_file import ConfigFile, read_config_file, understand
from script.cog_server import ROOT
from script.openapi import training_inputs

# Written by hand rather than dumped, as its comments, quotes and numbers are those that people type.
TYPED = """---
job: extension
config:
  # the name of the file, ${OF_NO_VARIABLE}
  name: "my_lora"
  process:
    - type: 'sd_trainer'
      training_folder: "FOLDER/[name]"
#      performance_log_every: 1000
      device: cuda:0
      trigger_word: "p3r5on"
      network:
        type: "lora"
        linear: 16
        linear_alpha: 16
      save:
        dtype: float16 # precision to save
        save_every: 200
        max_step_saves_to_keep: 4
        push_to_hub: false
      datasets:
        - folder_path: "FOLDER"
          caption_ext: "txt"
          caption_dropout_rate: 0.05  # 5% of time
          shuffle_tokens: false
          cache_latents_to_disk: true
          resolution: [ 64, 128 ]
      train:
        batch_size: 1
        steps: 2000
        gradient_accumulation_steps: 1
        train_unet: true
        train_text_encoder: false
        gradient_checkpointing: true
        noise_scheduler: "flowmatch"
        optimizer: "adamw8bit"
        lr: 4e-4
        ema_config:
          use_ema: true
          ema_decay: 0.99
        dtype: bf16
      model:
        name_or_path: "black-forest-labs/FLUX.1-dev"
        is_flux: true
        quantize: true
      sample:
        sampler: "flowmatch"
        sample_every: 100
        width: 1024
        height: 1024
        prompts:
          - "[trigger] on a beach"
          - "a horse"
        neg: ""
        seed: 42
        walk_seed: true
        guidance_scale: 4
        sample_steps: 12
meta:
  name: "[name]"
  version: '1.0'
"""


def typed_job(folder: Path) -> str:
    """The text of a job whose images are in `folder`."""
    return TYPED.replace("FOLDER", str(folder))


@functools.cache
def _typed() -> dict[str, Any]:
    return yaml.safe_load(TYPED)


def job(folder: Path, **changes: object) -> dict[str, Any]:
    """A job as data. A change is named by the path inside the process, with `__` between its parts; None removes."""
    tree = copy.deepcopy(_typed())
    tree["config"]["process"][0]["train"]["lr"] = 0.0004
    changes = {"dataset__folder_path": str(folder), "training_folder": str(folder), **changes}
    for path, value in changes.items():
        *parts, last = path.split("__")
        section = tree["config"]["process"][0]
        for part in parts:
            section = section["datasets"][0] if part == "dataset" else section.setdefault(part, {})
        section[last] = value
    return tree


def public_trainer_job(layers: list[str]) -> dict[str, Any]:
    """A job as ostris/flux-dev-lora-trainer leaves it as config.yaml in its tar, with the layers of its regex."""
    changes = {
        "type": "custom_sd_trainer",
        "training_folder": "output",
        "network__network_kwargs": {"only_if_contains": layers},
        "save__save_every": 1001,
        "dataset__cache_latents": True,
        "dataset__resolution": [512, 768, 1024],
        "train__content_or_style": "balanced",
        "model__name_or_path": "FLUX.1-dev",
        "model__quantize": False,
        "sample__sample_every": 1001,
        "sample__prompts": [],
    }
    tree = job(Path("input_images"), **changes)
    return {**tree, "job": "custom_job", "config": {**tree["config"], "name": "flux_train_replicate"}}


@functools.cache
def _defaults() -> dict[str, Any]:
    return {name: schema.get("default") for name, schema in training_inputs(ROOT).items()}


def read(path: Path, **flags: object) -> ConfigFile:
    """Read a settings file as script/train does, with these inputs as flags."""
    return read_config_file(path, flags=flags, defaults=_defaults())


def read_job(tree: object, **flags: object) -> ConfigFile:
    """Read the content of a file, which takes a fraction of the time."""
    return understand(tree, path=Path("job.yaml"), flags=flags, defaults=_defaults())


def row_of(config: ConfigFile, field: str) -> str:
    """What a field became: the end of its row in the table."""
    rows = [line.split(maxsplit=1)[1] for line in config.table.splitlines() if line.split()[0] == field]
    assert len(rows) == 1, (field, config.table)
    return rows[0]
