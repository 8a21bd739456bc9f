"""Whether `lora_type` edit learns an edit: on the embedded FLUX.2, shapes of its world take another color by
instruction, and all else stays as it is.

Measured on scenes that neither the base nor the LoRA has seen: the loss beside their references, and images of the same
instructions, by the base and by the LoRA beside the references, and by the LoRA without them.
"""

import io
import random
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from bench.machine import machine
from bench.report import argument_parser, table, write_results
from lora.base.family import SamplingSettings
from lora.base.presets import EDIT
from lora.dataset.cache import MemoryCache
from lora.dataset.cache_keys import Keys
from lora.dataset.encoding import EncodedDataset, Example, ExtraTexts, encode_dataset
from lora.dataset.inspection import Inspector
from lora.dataset.reading import Archives, read_dataset
from lora.engine.lora_layers import fuse_lora, lora_layers, without_lora
from lora.families.loading import load_pipeline
from lora.families.registry import family_of_model
from lora.flux2.presets import PRESETS
from lora.training.learning.adapter import add_lora
from lora.training.learning.batches import Batches, NoiseSettings
from lora.training.learning.data_parallel import SingleProcess
from lora.training.learning.loop import take_step
from lora.training.learning.state import TrainingState
from lora.training.learning.validation import validate
from lora.training.recipe.config import TrainConfig
from lora.training.recipe.layers import block_layers
from lora.training.recipe.recipe import Recipe, make_recipe
from lora.training.recipe.sigmas import Shift
from script.openapi import training_inputs
from script.tiny_flux.measure import classify, object_mask
from script.tiny_flux.world import Scene, held_out_scenes, render, training_scenes
from weights.bases import WEIGHTS

ROOT = Path(__file__).resolve().parents[1]
BASE, SIDE = WEIGHTS / "tiny-flux2", 128
TARGETS = ("red", "blue")  # of the edits
TRAINING = {
    **{"lora_type": "edit", "learning_rate": 1e-3, "lr_scheduler": "cosine", "batch_size": 4, "resolution": str(SIDE)},
    **{"optimizer": "adamw", "seed": 42},
}
GUIDANCE = 3.5
FIRST_SEED = 1000  # of generated images


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is trained and generated."""

    pairs: int
    steps: int
    images: int  # of each kind, each of another unseen scene
    inference_steps: int


FULL, SMALL = Extent(40, 500, 16, 20), Extent(2, 1, 1, 1)


@dataclass(frozen=True, slots=True)
class Pair:
    """A scene before and after an edit."""

    before: Scene
    after: Scene

    @property
    def instruction(self) -> str:
        """What the caption says."""
        return f"make it {self.after.colour}"

    def pictures(self, number: int) -> tuple[Image.Image, Image.Image]:
        """Both, with the shape at the same place."""
        before, after = (
            render(scene, width=SIDE, height=SIDE, rng=random.Random(number)) for scene in (self.before, self.after)
        )
        return before, after


@dataclass(frozen=True, slots=True)
class Counts:
    """How many images of unseen scenes show what."""

    kind: str
    images: int
    colors: int  # that of the instruction
    shapes: int  # that of the reference
    overlap: float  # intersection over union of the shape and where it should be, on average
    error: float  # absolute difference of a pixel from what it should be, of 255, on average


def main() -> None:
    """Train, generate, count, write the results."""
    parser = argument_parser("edits", __doc__, small="one step and image, to check that it runs")
    arguments = parser.parse_args()
    extent = SMALL if arguments.small else FULL
    pipeline = load_pipeline(BASE)
    with tempfile.TemporaryDirectory() as folder:
        trained = list(pairs(training_scenes(), extent.pairs, random.Random(1)))
        unseen = list(pairs(held_out_scenes(), extent.images, random.Random(2)))
        dataset = encoded(pipeline, trained, Path(folder) / "trained", first=0)
        held_out = encoded(pipeline, unseen, Path(folder) / "unseen", first=FIRST_SEED)
    losses, seconds, found = trained_and_counted(pipeline, dataset, held_out, unseen, extent)
    numbers = {
        **{"machine": machine("torch", "diffusers", "peft"), "extent": asdict(extent), "training": TRAINING},
        **{"losses": losses, "seconds": seconds, "found": [asdict(each) for each in found]},
    }
    path = write_results(numbers, name="edits", output=arguments.output)
    before, after = losses
    print(f"wrote {path}\n\nloss on unseen pairs: {before:.4f} before, {after:.4f} after\n\n{as_markdown(found)}")


def pairs(scenes: Sequence[Scene], count: int, rng: random.Random) -> Iterator[Pair]:
    """Yield pairs of some scenes, with each target in turn."""
    for number in range(count):
        target = TARGETS[number % len(TARGETS)]
        before = rng.choice([scene for scene in scenes if scene.colour != target])
        yield Pair(before, replace(before, colour=target))


def encoded(pipeline: DiffusionPipeline, some: Sequence[Pair], folder: Path, *, first: int) -> EncodedDataset:
    """Pairs, read from an archive and encoded as in a training."""
    folder.mkdir()
    with zipfile.ZipFile(folder / "pairs.zip", "w") as archive:
        for number, pair in enumerate(some):
            before, after = pair.pictures(first + number)
            archive.writestr(f"{number:02}_start.png", _png(before))
            archive.writestr(f"{number:02}_end.png", _png(after))
            archive.writestr(f"{number:02}.txt", pair.instruction)
    config, archives = _config(1), Archives(folder / "pairs.zip", None)
    inspector = Inspector(config.resolutions, None, crops=1)
    dataset = read_dataset(
        archives, into=folder, inspector=inspector, rule=config.prompt_rule, with_references=config.has_references
    )
    extra, on = ExtraTexts("", (), (), negative=""), pipeline.device
    keys = Keys.of(pipeline, BASE, on=on)
    return encode_dataset(
        pipeline, dataset, inspector, extra, on=on, keys=keys, cache=MemoryCache(), check=lambda: None
    )


def trained_and_counted(
    pipeline: DiffusionPipeline,
    dataset: EncodedDataset,
    held_out: EncodedDataset,
    unseen: Sequence[Pair],
    extent: Extent,
) -> tuple[tuple[float, float], float, list[Counts]]:
    """The losses on unseen pairs before and after a training, its seconds, and what images show."""
    transformer, recipe = pipeline.transformer, _recipe(extent)
    layers = block_layers(transformer.config, type(transformer))
    add_lora(transformer, layers=layers, rank=recipe.lora_rank, seed=recipe.seed)
    fuse_lora(transformer)
    patch, dropout = family_of_model(transformer).latents.patch, recipe.caption_dropout_rate
    settings = NoiseSettings(recipe.sigma_rule, recipe.offset_noise, dropout, Shift.of(pipeline.scheduler), patch)
    batches = Batches(dataset, batch_size=recipe.batch_size, noise_settings=settings, seed=recipe.seed)
    before, state, began = _loss(pipeline, held_out), TrainingState(transformer, recipe), time.perf_counter()
    for _ in range(extent.steps):
        take_step(transformer, state, batches, recipe, process_group=SingleProcess())
    seconds = round(time.perf_counter() - began, 1)
    with state.averaged(), torch.no_grad():
        after = _loss(pipeline, held_out)
        alone = replace(held_out, examples=tuple(replace(each, references=()) for each in held_out.examples))
        with without_lora(lora_layers(transformer)):
            base = counted("the base beside the reference", pipeline, held_out, unseen, extent)
        found = [
            base,
            counted("the LoRA beside the reference", pipeline, held_out, unseen, extent),
            counted("the LoRA without it", pipeline, alone, unseen, extent),
        ]
    return (before, after), seconds, found


def _loss(pipeline: DiffusionPipeline, held_out: EncodedDataset) -> float:
    return validate(pipeline.transformer, held_out.examples, step=0, batch_size=1).mean


def counted(
    kind: str, pipeline: DiffusionPipeline, dataset: EncodedDataset, some: Sequence[Pair], extent: Extent
) -> Counts:
    """Count what a pipeline generates beside the references of these pairs."""
    images = [
        generated(pipeline, example, dataset, FIRST_SEED + number, extent)
        for number, example in enumerate(dataset.examples)
    ]
    seen = [classify(image) for image in images]
    expected = [pair.pictures(FIRST_SEED + number)[1] for number, pair in enumerate(some)]
    return Counts(
        kind=kind,
        images=len(images),
        colors=sum(each.colour == pair.after.colour for each, pair in zip(seen, some, strict=True)),
        shapes=sum(each.shape == pair.after.shape for each, pair in zip(seen, some, strict=True)),
        overlap=round(float(np.mean([_overlap(*each) for each in zip(images, expected, strict=True)])), 3),
        error=round(float(np.mean([_error(*each) for each in zip(images, expected, strict=True)])), 1),
    )


def generated(
    pipeline: DiffusionPipeline, example: Example, dataset: EncodedDataset, seed: int, extent: Extent
) -> Image.Image:
    """An image of the instruction of an example, beside its references."""
    settings = SamplingSettings(
        width=SIDE,
        height=SIDE,
        steps=extent.inference_steps,
        guidance=GUIDANCE,
        seed=seed,
        after_step=lambda _: None,
        references=tuple(reference[None] for reference in example.references),
    )
    sampling = family_of_model(pipeline.transformer).sampling
    return sampling.generate_image(pipeline, example.prompt, dataset.negative, settings)


def _overlap(image: Image.Image, expected: Image.Image) -> float:
    one, other = object_mask(image), object_mask(expected)
    return float(np.logical_and(one, other).sum() / max(np.logical_or(one, other).sum(), 1))


def _error(image: Image.Image, expected: Image.Image) -> float:
    one, other = (np.asarray(each, dtype=float) for each in (image, expected))
    return float(np.abs(one - other).mean())


def _recipe(extent: Extent) -> Recipe:
    return make_recipe(_config(extent.steps), PRESETS[EDIT], images=extent.pairs, processes=1).recipe


def _config(steps: int) -> TrainConfig:
    defaults = {name: schema.get("default") for name, schema in training_inputs(ROOT).items()}
    settings = {n: v for n, v in defaults.items() if n not in ("input_images", "input_captions", "resume_from")}
    return TrainConfig.checked(**settings | TRAINING | {"steps": steps})


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def as_markdown(found: Sequence[Counts]) -> str:
    """A table with a row for each kind of image."""
    titles = ["", "the color of the instruction", "the shape of the reference"]
    titles += ["overlap with where it should be", "error of a pixel, of 255"]
    rows = [
        [
            each.kind,
            f"{each.colors} of {each.images}",
            f"{each.shapes} of {each.images}",
            f"{each.overlap:.2f}",
            f"{each.error:.0f}",
        ]
        for each in found
    ]
    return table(titles, rows)


if __name__ == "__main__":
    main()
