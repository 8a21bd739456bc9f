"""FLUX.1 as a family of base models."""

import re

from lora.base.family import Family, FileIdentity, Transformer
from lora.flux.components import COMPONENTS
from lora.flux.dimensions import dimensions_of
from lora.flux.latents import LATENTS
from lora.flux.modulation import modulation_input
from lora.flux.presets import PRESETS
from lora.flux.prompt import TEXT
from lora.flux.sampling import SAMPLING
from lora.flux.velocity import predict_velocity

# The inputs of these layers depend only on the timestep, the guidance and the pooled text: on no token and no trained
# parameter.
MODULATION = re.compile(
    r"transformer_blocks\.\d+\.(norm1|norm1_context)\.linear|single_transformer_blocks\.\d+\.norm\.linear"
)
PER_TOKEN = re.compile(
    r"transformer_blocks\.\d+\.(attn|ff|ff_context)\..+"
    r"|single_transformer_blocks\.\d+\.(attn\..+|proj_mlp|proj_out)"
)

# As sd-scripts writes them (library/sai_model_spec.py, train_util.py).
FILE_IDENTITY = FileIdentity(
    architecture="flux-1-dev",
    implementation="https://github.com/black-forest-labs/flux",
    base_model_version="flux1",
    network_module="networks.lora_flux",
)

FLUX1 = Family(
    name="FLUX.1",
    components=COMPONENTS,
    text=TEXT,
    latents=LATENTS,
    transformer=Transformer(
        modulation=MODULATION,
        per_token=PER_TOKEN,
        dimensions=dimensions_of,
        predict_velocity=predict_velocity,
        modulation_input=modulation_input,
    ),
    sampling=SAMPLING,
    presets=PRESETS,
    file_identity=lambda _config: FILE_IDENTITY,
)
