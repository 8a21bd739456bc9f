"""What a training would do with a data set: how often it sees each image, and which it holds out. Loads no weights."""

from dataclasses import dataclass

from lora.base.presets import Preset
from lora.dataset.reading import Dataset
from lora.dataset.wording import counted
from lora.training.learning.held_out import held_out_contents
from lora.training.recipe.config import TrainConfig
from lora.training.recipe.recipe import make_recipe


@dataclass(frozen=True, slots=True)
class Outline:
    """The numbers of a training on one GPU. The names of the fields are keys of `script/check --json`."""

    images: int  # copies of an image count once
    held_out: tuple[str, ...]  # names of images, for validation
    sizes: int  # of images, each of which is one more shape for the GPU
    steps: int
    images_per_step: int
    steps_per_image: float  # how often each image is seen

    @classmethod
    def of(cls, dataset: Dataset, config: TrainConfig, preset: Preset) -> "Outline":
        """The outline of a training on these images with this configuration."""
        contents = {image.inspection.content for image in dataset.images}
        held_out = held_out_contents(contents, seed=config.seed) if config.validation else frozenset()
        trained = len(contents) - len(held_out)
        recipe = make_recipe(config, preset, images=trained, processes=1).recipe
        per_step = config.batch_size * config.gradient_accumulation
        return cls(
            images=trained,
            held_out=tuple(image.name for image in dataset.images if image.inspection.content in held_out),
            sizes=len({size for image in dataset.images for size in image.inspection.sizes}),
            steps=recipe.steps,
            images_per_step=per_step,
            steps_per_image=round(recipe.steps * per_step / trained, 1),
        )

    def lines(self) -> list[str]:
        """The outline as text."""
        held_out = (
            f"{counted(len(self.held_out), 'image')} held out for validation" if self.held_out else "none held out"
        )
        return [
            f"{counted(self.images, 'image')} trained at {counted(self.sizes, 'size')}, {held_out}",
            f"{counted(self.steps, 'step')} with {counted(self.images_per_step, 'image')} each: "
            f"every image is seen about {self.steps_per_image:,.0f} times",
        ]
