"""Our training loop with preservation, which a subject has by default in a share of its steps."""

import time
from dataclasses import replace

from diffusers.models.modeling_utils import ModelMixin

from bench.random_flux import embedded_base
from bench.step_loops import Inputs, OurLoop
from bench.timing import wait_for
from lora.base.device import device
from lora.base.latents import TOKEN_PIXELS
from lora.families.registry import family_of_model
from lora.training.learning.data_parallel import SingleProcess
from lora.training.learning.preservation import NeutralImages, Preservation
from lora.training.progress import Log
from lora.training.recipe.neutral import neutral_side
from lora.training.stop import Stop, Termination

SUBJECT = "subject"  # the type of LoRA that preserves by default


class PreservingLoop(OurLoop):
    """Our training loop with preservation in every step: with its time and that of a plain step, that of any share is
    known. Until they are generated, neutral images are blank, which takes as long: their noise is what is computed."""

    def __init__(self, transformer: ModelMixin) -> None:
        super().__init__(transformer)
        self._family = family_of_model(transformer)
        self._base = embedded_base(self._family)  # has the scheduler
        self._stop = Stop(Log(lambda _name, _value: None, None), Termination(), minutes=None)

    def begin(self, inputs: Inputs) -> float:
        """Start again and take the first step."""
        examples, patch = inputs.dataset.examples, self._family.latents.patch
        side = neutral_side((examples[0].latents.shape[-1] // patch * TOKEN_PIXELS,))
        prompts = tuple(example.prompt for example in examples)
        negative = prompts[0] if self._family.text.has_negative else None
        weight = self._family.presets[SUBJECT].preservation_weight
        self._preservation = Preservation(
            self._transformer,
            replace(inputs.recipe, preservation=1.0, preservation_weight=weight),
            inputs.noise_settings,
            NeutralImages(self._base, prompts, negative, side),
            processes=1,
        )
        self._generate(range(0))
        return super().begin(inputs)

    @property
    def usual_share(self) -> float:
        """The share of the steps that preserve by default."""
        return self._family.presets[SUBJECT].preservation

    def seconds_of_images(self, steps: int) -> tuple[int, float]:
        """Generate the images that the first steps ask for; returns their number and the seconds that they took."""
        assert self._preservation is not None, "call begin first"
        wait_for(device())
        began = time.perf_counter()
        self._generate(range(steps))
        wait_for(device())
        return len(self._preservation.images_for(range(steps))), time.perf_counter() - began

    def _generate(self, steps: range) -> None:
        assert self._preservation is not None, "call begin first"
        self._preservation.generate(SingleProcess(), steps=steps, stop=self._stop)
