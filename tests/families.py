"""The embedded base of each family, for tests of what all families have in common."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from lora.base.family import Family
from lora.base.prompt import Prompt
from lora.dataset.encoding import Example
from lora.families.loading import transformer_config
from lora.flux import latents as flux
from lora.flux.family import FLUX1
from lora.flux2 import latents as flux2
from lora.flux2.family import FLUX2
from tests.tiny import TINY_FLUX, replace
from weights.bases import WEIGHTS


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyBase:
    """An embedded base, and what tests must know of the pipeline of its family."""

    family: Family
    folder: Path
    tokenizer: str  # the folder of the one whose `model_max_length` is the text length
    pack: Callable[[Tensor], Tensor]
    unpack: Callable[..., Tensor]
    takes_packed: bool  # whether the pipeline takes its latents packed
    guidance: float
    prompts: int  # calls of the transformer in a step with that guidance: the prompt, and perhaps the empty prompt

    def pipeline(self) -> DiffusionPipeline:
        """The stock pipeline, in fp32 on the CPU of any machine."""
        pipeline = self.family.components.pipeline.from_pretrained(self.folder, dtype=torch.float32)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def linked(self, folder: Path) -> Path:
        """The base as a folder of links; a test may `replace` its files."""
        shutil.copytree(self.folder, folder, copy_function=lambda source, link: Path(link).symlink_to(source))
        return folder

    def changed(self, folder: Path, file: str, **changes: object) -> Path:
        """The base as a folder of links, with changes to one of its JSON files."""
        config = self.linked(folder) / file
        replace(config, json.dumps(json.loads(config.read_text()) | changes).encode())
        return folder

    def example(self, *, seed: int, side: int, text: int) -> Example:
        """A random example of a square image, with these numbers of tokens in a row and in the prompt."""
        config, patch = transformer_config(self.folder), self.family.latents.patch
        generator = torch.Generator().manual_seed(seed)
        tokens = torch.randn(text, config["joint_attention_dim"], generator=generator)
        pooled = None
        if "pooled_projection_dim" in config:
            pooled = torch.randn(config["pooled_projection_dim"], generator=generator)
        latents = torch.randn(config["in_channels"] // patch**2, side * patch, side * patch, generator=generator)
        return Example(latents, Prompt(tokens, pooled), content=str(seed))

    def latents_shape(self, pipeline: DiffusionPipeline, *, height: int, width: int) -> tuple[int, int, int, int]:
        """The shape of the latents of one image with this number of tokens in each direction."""
        patch = self.family.latents.patch
        return 1, pipeline.transformer.config.in_channels // patch**2, height * patch, width * patch

    def last_latents(
        self, pipeline: DiffusionPipeline, text: str, noise: Tensor, *, steps: int, guidance: float
    ) -> Tensor:
        """The latents after the last step of the stock pipeline that starts with these."""
        height, width = noise.shape[2:]
        packed: list[Tensor] = []

        def keep(_pipeline: object, _step: int, _time: object, kwargs: dict[str, Tensor]) -> dict[str, Tensor]:
            packed[:] = [kwargs["latents"]]
            return kwargs

        pipeline(
            prompt=text,
            latents=self.pack(noise) if self.takes_packed else noise,
            height=height * self.family.latents.pixels,
            width=width * self.family.latents.pixels,
            num_inference_steps=steps,
            guidance_scale=guidance,
            max_sequence_length=self.family.text.length(pipeline),
            callback_on_step_end=keep,
            output_type="latent",
        )
        return self.unpack(packed[0], height=height, width=width)


FIRST = TinyBase(
    family=FLUX1,
    folder=TINY_FLUX,
    tokenizer="tokenizer_2",
    pack=flux.pack,
    unpack=flux.unpack,
    takes_packed=True,
    guidance=1.0,
    prompts=1,
)
KLEIN = TinyBase(
    family=FLUX2,
    folder=WEIGHTS / "tiny-flux2",
    tokenizer="tokenizer",
    pack=flux2.pack,
    unpack=flux2.unpack,
    takes_packed=False,
    guidance=4.0,
    prompts=2,
)
TINY_BASES = (FIRST, KLEIN)
of_each_family = pytest.mark.parametrize("tiny", TINY_BASES, ids=lambda tiny: tiny.family.name)
