"""FLUX.1 as a family of base models."""

import re

from lora.base.family import TRANSFORMER, Family, FileIdentity, Transformer
from lora.flux.components import CLIP, COMPONENTS, T5
from lora.flux.dimensions import dimensions_of
from lora.flux.latents import LATENTS
from lora.flux.modulation import modulation_input
from lora.flux.presets import PRESETS
from lora.flux.prompt import TEXT
from lora.flux.sampling import SAMPLING
from lora.flux.velocity import predict_velocity
from lora.formats.layer_names.flux1 import FLUX1 as LAYER_NAMES

# The inputs of these layers depend only on the timestep, the guidance and the pooled text: on no token and no trained
# parameter.
MODULATION = re.compile(
    r"transformer_blocks\.\d+\.(norm1|norm1_context)\.linear|single_transformer_blocks\.\d+\.norm\.linear"
)
PER_TOKEN = re.compile(
    r"transformer_blocks\.\d+\.(attn|ff|ff_context)\..+"
    r"|single_transformer_blocks\.\d+\.(attn\..+|proj_mlp|proj_out)"
)

# In FLUX.1 they match 494, 418, 266 and 4 layers; `fast` are those of replicate/fast-flux-trainer.
LAYER_SETS = {
    "all": r".+",
    "no-modulation": r"(?!.*\.norm).+",
    "attention": r"(single_)?transformer_blocks\.\d+\.attn\..+",
    "fast": r"single_transformer_blocks\.(7|12|16|20)\.proj_out",
}
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
        takes_references=False,
        modulation_input=modulation_input,
        layer_sets=LAYER_SETS,
        loads_whole_groups="Replicate's flux-dev-lora",
    ),
    sampling=SAMPLING,
    presets=PRESETS,
    layer_names=LAYER_NAMES,
    lora_models={"transformer": TRANSFORMER, "clip": CLIP, "t5": T5},
    file_identity=lambda _config: FILE_IDENTITY,
)
