"""Whether masks keep a LoRA from learning the room: the demo's monster, always in the same desert, which no caption
names, trained with and without masks on the embedded base, with one or several seeds.

After each training, images are generated of the trigger word alone, and of it on grounds that were never shown. Counted
are those that show the monster, the ground that was asked for, and the desert. An archive is read and encoded as in a
training; all arms have the same images, captions, noise and steps. bench/surroundings.py makes what no input can.
"""

import io
import random
import tempfile
import time
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import torch
from diffusers import FluxPipeline
from numpy.typing import NDArray
from PIL import Image

from bench.machine import machine
from bench.report import argument_parser, table, write_results
from bench.surroundings import ROOM, Surroundings, blurred_room, flat_colors, other_grounds, room
from lora.dataset.cache import MemoryCache
from lora.dataset.cache_keys import Keys
from lora.dataset.encoding import EncodedDataset, ExtraTexts, encode_dataset
from lora.dataset.inspection import Inspector
from lora.dataset.mask_settings import ORIGINAL, WHITE
from lora.dataset.reading import Archives, read_dataset
from lora.engine.lora_layers import fuse_lora
from lora.families.loading import load_pipeline
from lora.flux.latents import PATCH
from lora.flux.presets import PRESETS
from lora.serving.generation import generate
from lora.training.learning.adapter import add_lora
from lora.training.learning.batches import Batches, NoiseSettings
from lora.training.learning.data_parallel import SingleProcess
from lora.training.learning.loop import take_step
from lora.training.learning.state import TrainingState
from lora.training.recipe.config import TrainConfig
from lora.training.recipe.layers import block_layers
from lora.training.recipe.recipe import make_recipe
from lora.training.recipe.sigmas import Shift
from script.demo import TRAINING
from script.openapi import training_inputs
from script.tiny_flux.following import plain_request
from script.tiny_flux.monster import OFFSET, PARTS, RADIUS, SIDE, TRAINING_IMAGES, draw_parts
from script.tiny_flux.monster_measure import is_monster
from script.tiny_flux.world import BACKGROUNDS, render_background
from weights.bases import WEIGHTS

ROOT = Path(__file__).resolve().parents[1]
BASE = WEIGHTS / "tiny-flux"
OTHERS = "meadow", "night", "white"
FRAME = 12  # pixels at the left and right of an image, which the monster does not reach
RENDERS = 20  # of each ground, whose mean is compared
FIRST_SEED = 1000  # different from those of the demo
PLAIN = {"preservation": 0.0}  # of the settings of the demo, that are changed


@dataclass(frozen=True, slots=True)
class Arm:
    """A way to train: with the masks as files, or cut out; the weight outside, and what is there."""

    name: str
    unmasked_weight: float
    background: str = ORIGINAL  # the input mask_background
    is_cut_out: bool = False
    surroundings: Surroundings = room


ARMS = (
    Arm("no masks", 1.0),
    Arm("masks, original, 0.1 outside", 0.1),
    Arm("masks, original, 0 outside", 0.0),
    Arm("masks, white, 0.1 outside", 0.1, WHITE),
    Arm("masks, white, 0 outside", 0.0, WHITE),
    Arm("cut out, 0.1 outside", 0.1, is_cut_out=True),
    Arm("cut out, 0 outside", 0.0, is_cut_out=True),
    Arm("cut out, 1 outside", 1.0, is_cut_out=True),
    Arm("flat colors, 0.1 outside", 0.1, surroundings=flat_colors),
    Arm("other grounds, 0.1 outside", 0.1, surroundings=other_grounds),
    Arm("blurred room, 0.1 outside", 0.1, surroundings=blurred_room),
)


@dataclass(frozen=True, slots=True)
class Training:
    """An arm with a seed."""

    arm: Arm
    seed: int


BASE_ALONE = Arm("the base alone", 1.0)


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is trained and generated."""

    steps: int
    seeds: int  # images of each prompt
    inference_steps: int


FULL, SMALL = Extent(int(str(TRAINING["steps"])), 8, 20), Extent(1, 1, 1)


@dataclass(frozen=True, slots=True)
class Counts:
    """The numbers of images by what they show."""

    arm: str
    seed: int  # of the training
    seconds: float  # of the steps
    named: int  # images of prompts that name a ground which was not shown
    monsters: int  # how many of them show the monster,
    right_grounds: int  # the ground that is named,
    rooms: int  # the desert
    whites: int  # white, although another ground is named
    unnamed: int  # images of the trigger word alone
    unnamed_monsters: int
    unnamed_rooms: int
    unnamed_whites: int


def main() -> None:
    """Train, generate, count, write the results."""
    parser = argument_parser("masks", __doc__, small="one step and image each, to check that it runs")
    names = [arm.name for arm in ARMS]
    parser.add_argument("--arms", nargs="+", choices=names, default=names, help="arms to compare")
    parser.add_argument("--seeds", nargs="+", type=int, default=[TRAINING["seed"]], help="seeds of the trainings")
    arguments = parser.parse_args()
    extent, arms = SMALL if arguments.small else FULL, [arm for arm in ARMS if arm.name in arguments.arms]
    about = {"machine": machine("torch", "diffusers", "peft"), "extent": asdict(extent), "training": TRAINING | PLAIN}
    found = [count_images(load_pipeline(BASE), Training(BASE_ALONE, 0), 0.0, extent)]
    with tempfile.TemporaryDirectory() as folder:
        for number, (seed, arm) in enumerate(product(arguments.seeds, arms)):
            found.append(trained_and_counted(Training(arm, seed), extent, Path(folder) / str(number)))
            numbers = {**about, "found": [asdict(each) for each in found]}  # of each arm at once, as they take minutes
            path = write_results(numbers, name="masks", output=arguments.output)
    print(f"wrote {path}\n\n{as_markdown(found)}")


def trained_and_counted(training: Training, extent: Extent, folder: Path) -> Counts:
    """Train one arm on a fresh base, and count what it generates with the weights that would be exported."""
    pipeline, config = load_pipeline(BASE), _config(training, extent)
    dataset, began = _encoded(pipeline, training.arm, config, folder), time.perf_counter()
    transformer, preset = pipeline.transformer, PRESETS[config.lora_type]
    recipe = make_recipe(config, preset, images=TRAINING_IMAGES, processes=1).recipe
    layers = block_layers(transformer.config, type(transformer))
    add_lora(transformer, layers=layers, rank=recipe.lora_rank, seed=recipe.seed)
    fuse_lora(transformer)
    shift, dropout = Shift.of(pipeline.scheduler), recipe.caption_dropout_rate
    settings = NoiseSettings(recipe.sigma_rule, recipe.offset_noise, dropout, shift, PATCH)
    batches = Batches(dataset, batch_size=recipe.batch_size, noise_settings=settings, seed=recipe.seed)
    state = TrainingState(transformer, recipe)
    for _ in range(extent.steps):
        take_step(transformer, state, batches, recipe, process_group=SingleProcess())
    seconds = round(time.perf_counter() - began, 1)
    with state.averaged(), torch.no_grad():
        return count_images(pipeline, training, seconds, extent)


def write_archive(path: Path, *, is_cut_out: bool, surroundings: Surroundings = room) -> None:
    """Write a zip of the monster in the desert, each with a caption of the trigger word alone: images with a mask for
    each, one for each of its surroundings, or images whose transparency is that mask."""
    rng = random.Random(7)
    with zipfile.ZipFile(path, "w") as archive:
        for index in range(TRAINING_IMAGES):
            image, mask = photograph(rng)
            if is_cut_out:
                image.putalpha(mask)
            for number, shown in enumerate(surroundings(image, mask, random.Random(index))):
                name = f"{index:02}-{number}"
                archive.writestr(f"{name}.png", _png(shown))
                archive.writestr(f"{name}.txt", "[trigger]")
                if not is_cut_out:
                    archive.writestr(f"masks/{name}.png", _png(mask))


def photograph(rng: random.Random, ground: str = ROOM) -> tuple[Image.Image, Image.Image]:
    """The monster on a ground, at a random place, and its mask, white on black."""
    canvas = render_background(ground, width=SIDE, height=SIDE, rng=rng)
    mask, unit = Image.new("RGB", canvas.size), min(canvas.size)
    radius = unit * rng.uniform(*RADIUS)
    x, y = (side / 2 + unit * rng.uniform(-OFFSET, OFFSET) for side in canvas.size)
    draw_parts(canvas, PARTS, centre=(x, y), radius=radius)
    draw_parts(mask, [replace(part, colour=(255, 255, 255)) for part in PARTS], centre=(x, y), radius=radius)
    image, small = (each.resize((SIDE, SIDE), Image.Resampling.BOX) for each in (canvas, mask))
    return image, small.convert("L")


def ground_of(image: Image.Image) -> str:
    """The ground of the world that an image shows: that whose mean at the left and right edge is nearest."""
    edges = _edges(image)
    return min(BACKGROUNDS, key=lambda name: float(np.abs(edges - _mean_edges(name)).mean()))


@cache
def _mean_edges(ground: str) -> NDArray[np.float64]:
    rng = random.Random(1)
    renders = (render_background(ground, width=SIDE, height=SIDE, rng=rng) for _ in range(RENDERS))
    return np.mean([_edges(each.resize((SIDE, SIDE), Image.Resampling.BOX)) for each in renders], axis=0)


def _edges(image: Image.Image) -> NDArray[np.float64]:
    """The mean color of each row at the edges, [H, 3]."""
    pixels = np.asarray(image.convert("RGB").resize((SIDE, SIDE)), dtype=np.float64)
    return np.concatenate([pixels[:, :FRAME], pixels[:, -FRAME:]], axis=1).mean(axis=1)


def count_images(pipeline: FluxPipeline, training: Training, seconds: float, extent: Extent) -> Counts:
    """Count images that a pipeline generates in its current state."""
    trigger = TRAINING["trigger_word"]
    named = [
        (ground, image) for ground in OTHERS for image in _images(pipeline, f"{trigger} {BACKGROUNDS[ground]}", extent)
    ]
    unnamed = _images(pipeline, str(trigger), extent)
    grounds = [(asked, ground_of(image)) for asked, image in named]
    unnamed_grounds = list(map(ground_of, unnamed))
    return Counts(
        arm=training.arm.name,
        seed=training.seed,
        seconds=seconds,
        named=len(named),
        monsters=sum(is_monster(image) for _, image in named),
        right_grounds=sum(asked == found for asked, found in grounds),
        rooms=sum(found == ROOM for _, found in grounds),
        whites=sum(found == "white" != asked for asked, found in grounds),
        unnamed=len(unnamed),
        unnamed_monsters=sum(map(is_monster, unnamed)),
        unnamed_rooms=unnamed_grounds.count(ROOM),
        unnamed_whites=unnamed_grounds.count("white"),
    )


def _images(pipeline: FluxPipeline, prompt: str, extent: Extent) -> list[Image.Image]:
    request = replace(plain_request(prompt), num_inference_steps=extent.inference_steps)
    return list(generate(pipeline, replace(request, num_outputs=extent.seeds, seed=FIRST_SEED)))


def _config(training: Training, extent: Extent) -> TrainConfig:
    defaults = {name: schema.get("default") for name, schema in training_inputs(ROOT).items()}
    settings = {n: v for n, v in defaults.items() if n not in ("input_images", "input_captions", "resume_from")}
    arm = training.arm
    masks = {"unmasked_weight": arm.unmasked_weight, "mask_background": arm.background}
    changes = {"steps": extent.steps, "seed": training.seed, **masks}
    return TrainConfig.checked(**settings | TRAINING | PLAIN | changes)


def _encoded(pipeline: FluxPipeline, arm: Arm, config: TrainConfig, folder: Path) -> EncodedDataset:
    """The images of an arm, read from an archive and encoded as in a training."""
    folder.mkdir()
    write_archive(folder / "images.zip", is_cut_out=arm.is_cut_out, surroundings=arm.surroundings)
    inspector = Inspector(config.resolutions, None, crops=1, masks=config.masks)
    archives = Archives(folder / "images.zip", None)
    dataset = read_dataset(archives, into=folder / "read", inspector=inspector, rule=config.prompt_rule)
    extra, on = ExtraTexts(config.trigger_word, (), (), negative=None), pipeline.device
    keys = Keys.of(pipeline, BASE, on=on)
    return encode_dataset(
        pipeline, dataset, inspector, extra, on=on, keys=keys, cache=MemoryCache(), check=lambda: None
    )


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def as_markdown(found: Sequence[Counts]) -> str:
    """A table with a row for each arm."""
    titles = ["", "on other grounds: the monster", "the ground that is named", "the desert"]
    titles += ["white", "trigger word alone: the monster", "the desert", "white", "steps"]
    rows = [
        [
            f"{each.arm} (seed {each.seed})",
            f"{each.monsters} of {each.named}",
            f"{each.right_grounds}",
            f"{each.rooms}",
            f"{each.whites}",
            f"{each.unnamed_monsters} of {each.unnamed}",
            f"{each.unnamed_rooms}",
            f"{each.unnamed_whites}",
            f"{each.seconds:.0f} s",
        ]
        for each in found
    ]
    return table(titles, rows)


if __name__ == "__main__":
    main()
