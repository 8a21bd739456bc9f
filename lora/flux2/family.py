"""FLUX.2 [klein] as a family of base models."""

import re
from collections.abc import Mapping
from typing import Any

from lora.base.family import TRANSFORMER, Family, FileIdentity, Transformer
from lora.flux2.components import COMPONENTS
from lora.flux2.dimensions import dimensions_of
from lora.flux2.latents import LATENTS
from lora.flux2.presets import PRESETS
from lora.flux2.prompt import TEXT
from lora.flux2.sampling import SAMPLING
from lora.flux2.velocity import predict_velocity
from lora.formats.layer_names.flux2 import FLUX2 as LAYER_NAMES

PER_TOKEN = re.compile(r"(single_)?transformer_blocks\.\d+\.(attn|ff|ff_context)\..+")
WIDTH_OF_4B = 3072


def file_identity(config: Mapping[str, Any]) -> FileIdentity:
    """As musubi-tuner writes it (utils/sai_model_spec.py, dataset/architectures.py), which knows two sizes of klein."""
    size = "4b" if config["num_attention_heads"] * config["attention_head_dim"] <= WIDTH_OF_4B else "9b"
    return FileIdentity(
        architecture=f"Flux.2-klein-{size}",
        implementation="https://github.com/black-forest-labs/flux2",
        base_model_version=f"flux_2_klein_{size}",
        network_module="networks.lora_flux_2",
    )


# In klein 4B they match 100, 100 and 80 layers. No modulation is in a block.
LAYER_SETS = {
    "all": r".+",
    "no-modulation": r".+",
    "attention": r"(single_)?transformer_blocks\.\d+\.attn\..+",
}

FLUX2 = Family(
    name="FLUX.2 [klein]",
    components=COMPONENTS,
    text=TEXT,
    latents=LATENTS,
    transformer=Transformer(
        modulation=None,  # all blocks share three layers outside of them
        per_token=PER_TOKEN,
        dimensions=dimensions_of,
        predict_velocity=predict_velocity,
        takes_references=True,
        modulation_input=None,
        layer_sets=LAYER_SETS,
        loads_whole_groups=None,
    ),
    sampling=SAMPLING,
    presets=PRESETS,
    layer_names=LAYER_NAMES,
    lora_models={"transformer": TRANSFORMER},
    file_identity=file_identity,
)
