"""Small real things that the tests share: a FLUX of two blocks, a handful of examples, images and zips."""

import copy
import functools
import io
import json
import random
import shutil
import zipfile
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from PIL import Image
from safetensors.torch import load
from torch import Tensor, nn

from lora.dataset.cache import Cache, MemoryCache
from lora.dataset.cache_keys import Keys
from lora.dataset.captions import PromptRule
from lora.dataset.encoding import EncodedDataset, Example, ExtraTexts, encode_dataset
from lora.dataset.inspection import Inspector
from lora.dataset.pixels import PixelStore
from lora.dataset.reading import Archives, Dataset, read_dataset
from lora.dataset.report import report_on
from lora.flux.prompt import Prompt
from lora.training.learning.adapter import add_lora, lora_tensors
from lora.training.learning.batches import Batch, Batches, Draws
from lora.training.learning.data_parallel import SingleProcess
from lora.training.learning.loop import take_step
from lora.training.learning.preservation import NeutralImages, Preservation
from lora.training.learning.state import TrainingState
from lora.training.learning.trainer import Outcome, TrainingSummary
from lora.training.recipe.config import TrainConfig
from lora.training.recipe.layers import block_layers
from lora.training.recipe.recipe import Recipe
from lora.training.recipe.sigmas import Shift, SigmaRule
from lora.training.result.output import Product, write_tar
from script.cog_server import ROOT
from script.openapi import training_inputs
from weights.bases import WEIGHTS

TINY_FLUX = WEIGHTS / "tiny-flux"
TINY_TEXT_TOKENS = 32  # that it reads
SHIFT = Shift(base_tokens=256, max_tokens=4096, base_mu=0.5, max_mu=1.15)
CHANNELS, HEIGHT, WIDTH = 4, 8, 12  # latents that are not square, so that a swap of rows and columns shows
TEXT, TEXT_WIDTH, POOLED = 6, 32, 32
PROJ_OUT_GAIN = 6  # a random proj_out bounds the velocity so low that nothing can be fitted
LAYERS = 40  # linear layers in the two double and the two single blocks


def tiny_transformer(*, dtype: torch.dtype = torch.float32) -> FluxTransformer2DModel:
    """A frozen FLUX transformer of two double and two single blocks, always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=TEXT_WIDTH,
            pooled_projection_dim=POOLED,
            guidance_embeds=True,
            axes_dims_rope=(4, 4, 8),
        )
    transformer.proj_out.weight.data.mul_(PROJ_OUT_GAIN)
    return transformer.requires_grad_(False).to(dtype)


def tiny_lora_transformer(*, dtype: torch.dtype = torch.float32, rank: int = 4, seed: int = 0):
    """The same, wearing a LoRA that changes nothing yet."""
    transformer = tiny_transformer(dtype=dtype)
    add_lora(transformer, layers=all_layers(transformer), rank=rank, seed=seed)
    return transformer


def all_layers(transformer: FluxTransformer2DModel) -> tuple[str, ...]:
    """All layers that a LoRA can be on."""
    return tuple(block_layers(transformer.config))


def tiny_pipeline() -> FluxPipeline:
    """weights/tiny-flux, in fp32 on the CPU wherever the tests run."""
    pipeline = FluxPipeline.from_pretrained(TINY_FLUX, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def linked_base(folder: Path) -> Path:
    """weights/tiny-flux as a folder of links, whose files a test may `replace`."""
    shutil.copytree(TINY_FLUX, folder, copy_function=lambda source, link: Path(link).symlink_to(source))
    return folder


def base_with_text_length(tokens: object, folder: Path) -> Path:
    """weights/tiny-flux with another length of text."""
    config = linked_base(folder) / "tokenizer_2/tokenizer_config.json"
    replace(config, json.dumps(json.loads(config.read_text()) | {"model_max_length": tokens}).encode())
    return folder


def base_with_few_prompts(folder: Path) -> Path:
    """weights/tiny-flux with two neutral prompts, whose images take little time."""
    prompts = json.dumps(["a red star in a meadow", "a blue heart in the desert"])
    replace(linked_base(folder) / "neutral_prompts.json", prompts.encode())
    return folder


def replace(file: Path, content: bytes) -> Path:
    """Put a file in the place of another, or of a link."""
    file.unlink(missing_ok=True)
    return write(file, content)


def lora_parameters(transformer: nn.Module) -> dict[str, nn.Parameter]:
    """What of a transformer belongs to its LoRA."""
    return {name: parameter for name, parameter in transformer.named_parameters() if ".lora_" in name}


def randomize_lora(transformer: nn.Module, *, seed: int = 0, spread: float = 0.05) -> None:
    """Fill every B with random numbers, so that the LoRA does something."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in lora_parameters(transformer).items():
        if ".lora_B." in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * spread)


def random_lora(bare: FluxTransformer2DModel, *, rank: int = 4, seed: int = 0, spread: float = 0.05):
    """The saved tensors of a LoRA for a transformer, which itself is left alone."""
    transformer = copy.deepcopy(bare)
    add_lora(transformer, layers=all_layers(transformer), rank=rank, seed=seed)
    randomize_lora(transformer, seed=seed, spread=spread)
    return lora_tensors(transformer)


def tiny_prompt(*, seed: int) -> Prompt:
    """A prompt that nobody encoded."""
    generator = torch.Generator().manual_seed(seed)
    return Prompt(torch.randn(TEXT, TEXT_WIDTH, generator=generator), torch.randn(POOLED, generator=generator))


def tiny_example(*, seed: int, height: int = HEIGHT, width: int = WIDTH) -> Example:
    """An example whose latents and prompt belong together by their seed."""
    latents = torch.randn(CHANNELS, height, width, generator=torch.Generator().manual_seed(1000 + seed))
    return Example(latents, tiny_prompt(seed=seed), content=str(seed))


def tiny_dataset(count: int = 4) -> EncodedDataset:
    """Examples of one size."""
    return EncodedDataset(tuple(tiny_example(seed=index) for index in range(count)), dropped=tiny_prompt(seed=999))


def tiny_batch(count: int = 4) -> Batch:
    """A batch of examples in order."""
    examples = tiny_dataset(count).examples
    return Batch(torch.stack([e.latents for e in examples]), Prompt.stack([e.prompt for e in examples]))


def a_recipe(**changes: object) -> Recipe:
    """A short training, with what a test changes about it."""
    settings = {
        "lora_type": "subject",
        "steps": 3,
        "learning_rate": 1e-3,
        "batch_size": 2,
        "gradient_accumulation": 1,
        "lora_rank": 4,
        "sigma_rule": SigmaRule(None, 1.0, 0.0),
        "offset_noise": 0.0,
        "caption_dropout_rate": 0.0,
        "drops_to_trigger": True,
        "preservation": 0.0,
        "views": 1,
        "optimizer": "adamw",
        "weight_decay": 1e-4,
        "epsilon": 1e-8,
        "max_grad_norm": 1.0,
        "lr_scheduler": "constant",
        "ema_decay": 0.99,
        "ema_warms_up": True,
        "seed": 42,
    }
    return Recipe(**settings | changes)


def tiny_batches(recipe: Recipe, dataset: EncodedDataset | None = None) -> Batches:
    """The batches of a training on examples that nobody drew."""
    draws = Draws(recipe.sigma_rule, recipe.offset_noise, recipe.caption_dropout_rate, SHIFT)
    return Batches(dataset or tiny_dataset(), batch_size=recipe.batch_size, draws=draws, seed=recipe.seed)


def tiny_preservation(transformer: FluxTransformer2DModel, recipe: Recipe, *, images: int = 3) -> Preservation:
    """Preservation by images that a transformer is yet to generate of prompts that nobody encoded."""
    neutral = NeutralImages(TINY_FLUX, tuple(tiny_prompt(seed=200 + place) for place in range(images)), side=32)
    draws = Draws(recipe.sigma_rule, recipe.offset_noise, recipe.caption_dropout_rate, SHIFT)
    return Preservation(transformer, recipe, draws, neutral)


def trained(
    transformer: FluxTransformer2DModel,
    recipe: Recipe,
    dataset: EncodedDataset | None = None,
    preservation: Preservation | None = None,
):
    """Take all steps of a recipe on a transformer that wears a LoRA, and leave the average of its weights in it."""
    state, batches = TrainingState(transformer, recipe), tiny_batches(recipe, dataset)
    steps = [
        take_step(transformer, state, batches, recipe, team=SingleProcess(), preservation=preservation)
        for _ in range(recipe.steps)
    ]
    state.average.copy_to(state.parameters)
    return steps


def written(transformer: FluxTransformer2DModel, dataset: Dataset, into: Path, **changes: object) -> Path:
    """The tar of a training that is said to have ended with this LoRA; `changes` are of its product or recipe."""
    names = {"samples", "layout", "checkpoints", "base_model", "plan"} & changes.keys()
    of_product = {name: changes.pop(name) for name in names}
    settings = a_recipe(**changes).settings() | {"trigger_word": "TOK", "resolutions": (64,)}
    settings |= {"base_model": of_product.pop("base_model", "dev"), "images": len(dataset.images)}
    product = Product(
        result=Outcome(lora_tensors(transformer), TrainingSummary(3, "the last", 3, 0, 0, None, ())),
        settings=settings,
        dataset=dataset,
        report=report_on(dataset, rule=PromptRule("TOK", "", ""), resolutions=(64,)),
        **{"samples": into / "samples", "layout": "none", "checkpoints": {}, "plan": {"precision": "bf16"}}
        | of_product,
    )
    return write_tar(product, into=into)


@functools.cache
def _defaults() -> dict[str, object]:
    return {name: schema.get("default") for name, schema in training_inputs(ROOT).items()}


def checked_config(**inputs: object) -> TrainConfig:
    """From inputs as they arrive, those that are not given being as the signature has them."""
    defaults = _defaults()
    not_settings = ("input_images", "input_captions", "resume_from")
    return TrainConfig.checked(**{n: v for n, v in (defaults | inputs).items() if n not in not_settings})


@dataclass(frozen=True)
class Found:
    """A data set that was read from an archive, and who looked at its images."""

    dataset: Dataset
    inspector: Inspector
    trigger_word: str
    sample_prompts: tuple[str, ...] = ()
    neutral_prompts: tuple[str, ...] = ()

    def encoded(self, encoders: FluxPipeline, *, base: Path = TINY_FLUX, cache: Cache | None = None) -> EncodedDataset:
        """As training sees it."""
        on = encoders.device
        keys, cache = Keys.of(encoders, base, on=on), cache or MemoryCache()
        extra = ExtraTexts(self.trigger_word, self.sample_prompts, self.neutral_prompts)
        return encode_dataset(encoders, self.dataset, self.inspector, extra, on=on, keys=keys, cache=cache)


def read_archive(
    archive: Path, *, into: Path, resolutions=(64,), trigger_word="TOK", prefix="", suffix="", captions=None, views=1
) -> Found:
    """Read an archive as a training does."""
    inspector = Inspector(resolutions, PixelStore(into / "pixels"), views=views)
    rule = PromptRule(trigger_word, prefix, suffix)
    dataset = read_dataset(Archives(archive, captions), into=into, inspector=inspector, rule=rule)
    return Found(dataset, inspector, trigger_word)


@contextmanager
def recorded_calls(transformer: nn.Module):
    """A list that fills with the keyword arguments of each call of a transformer."""
    calls: list[dict[str, object]] = []
    hook = transformer.register_forward_pre_hook(lambda _module, _args, kwargs: calls.append(kwargs), with_kwargs=True)
    try:
        yield calls
    finally:
        hook.remove()


def assert_same_call(ours: Mapping[str, object], theirs: Mapping[str, object]) -> None:
    """Equal names; equal values, shapes and precisions."""
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        if isinstance(value, Tensor):
            assert ours[name].dtype == value.dtype, name
            assert ours[name].shape == value.shape, name
            assert torch.equal(ours[name], value), name
        else:
            assert (ours[name] or None) == (value or None), name  # no options, said as {} or as None


def assert_one_sentence(error: object, *found: str) -> None:
    """An error that a person reads: one line, which names the input and what was found."""
    message = str(error)
    assert "\n" not in message
    for part in found:
        assert part in message, message


def load_tensors(content: bytes) -> dict[str, Tensor]:
    """What a safetensors file holds, by the library that everybody reads it with."""
    return load(content)


def picture(width: int = 96, height: int = 80, *, color: object = (200, 30, 60), mode: str = "RGB") -> Image.Image:
    """A plain picture."""
    return Image.new(mode, (width, height), color)


def noisy_image(width: int = 96, height: int = 80, *, seed: int = 0) -> Image.Image:
    """A picture that no compression makes small."""
    return Image.frombytes("RGB", (width, height), random.Random(seed).randbytes(width * height * 3))


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """The bytes of an image file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def zipped(members: Mapping[str, bytes | str], *, compression: int = zipfile.ZIP_STORED) -> bytes:
    """The bytes of a zip."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def write(path: Path, content: bytes) -> Path:
    """A file with that content."""
    path.write_bytes(content)
    return path
