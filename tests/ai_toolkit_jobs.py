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


def page_job(folder: Path, size: str = "4b") -> dict[str, Any]:
    """A job as ai-toolkit's own page writes it for FLUX.2-klein-base once the model and the images are chosen."""
    changes = {
        "type": "diffusion_trainer",
        "sqlite_db_path": "./aitk_db.db",
        "device": "cuda",
        "trigger_word": None,
        "performance_log_every": 10,
        "network": {
            **{"type": "lora", "linear": 32, "linear_alpha": 32, "conv": 16, "conv_alpha": 16},
            **{"lokr_full_rank": True, "lokr_factor": -1, "network_kwargs": {"ignore_if_contains": []}},
        },
        **{"save__dtype": "bf16", "save__save_every": 250, "save__save_format": "diffusers"},
        **{"dataset__mask_path": None, "dataset__mask_min_value": 0.1, "dataset__default_caption": ""},
        **{"dataset__is_reg": False, "dataset__network_weight": 1, "dataset__resolution": [512, 768, 1024]},
        **{"dataset__controls": [], "dataset__shrink_video_to_frames": True, "dataset__num_frames": 1},
        **{"dataset__flip_x": False, "dataset__flip_y": False, "dataset__num_repeats": 1},
        **{f"dataset__control_path_{number}": None for number in (1, 2, 3)},
        **{"train__steps": 3000, "train__lr": 1e-4, "train__optimizer_params": {"weight_decay": 1e-4}},
        **{"train__timestep_type": "weighted", "train__content_or_style": "balanced", "train__loss_type": "mse"},
        **{"train__bypass_guidance_embedding": True, "train__gradient_accumulation": 1},
        **{"train__unload_text_encoder": False, "train__cache_text_embeddings": False},
        **{"train__skip_first_sample": False, "train__force_first_sample": False, "train__disable_sampling": False},
        **{"train__diff_output_preservation": False, "train__diff_output_preservation_multiplier": 1.0},
        **{"train__diff_output_preservation_class": "person", "train__switch_boundary_every": 1},
        "train__ema_config": {"use_ema": False, "ema_decay": 0.99},
        "logging": {"log_every": 1, "use_ui_logger": True},
        "model": {
            **{"name_or_path": f"black-forest-labs/FLUX.2-klein-base-{size.upper()}", "arch": f"flux2_klein_{size}"},
            **{"quantize": True, "qtype": "qfloat8", "quantize_te": True, "qtype_te": "qfloat8", "low_vram": True},
            **{"layer_offloading": False, "layer_offloading_transformer_percent": 1.0, "compile": False},
            "model_kwargs": {"match_target_res": False},
        },
        **{"sample__prompts": None, "sample__samples": [{"prompt": f"horse {number}"} for number in range(10)]},
        **{"sample__sample_every": 250, "sample__sample_steps": 30, "sample__sample_start_step": 0},
        **{"sample__num_frames": 1, "sample__fps": 1},
    }
    return job(folder, **changes)


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
