"""FLUX.2 [klein] as a family of base models."""

import re

from lora.base.family import Family, Transformer
from lora.flux2.components import COMPONENTS
from lora.flux2.dimensions import dimensions_of
from lora.flux2.latents import LATENTS
from lora.flux2.prompt import TEXT
from lora.flux2.sampling import SAMPLING
from lora.flux2.velocity import predict_velocity

PER_TOKEN = re.compile(r"(single_)?transformer_blocks\.\d+\.(attn|ff|ff_context)\..+")

FLUX2 = Family(
    name="FLUX.2",
    components=COMPONENTS,
    text=TEXT,
    latents=LATENTS,
    transformer=Transformer(
        modulation=None,  # all blocks share three layers outside of them
        per_token=PER_TOKEN,
        dimensions=dimensions_of,
        predict_velocity=predict_velocity,
        modulation_input=None,
    ),
    sampling=SAMPLING,
)
