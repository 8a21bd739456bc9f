"""Helpers that the tests share: a FLUX of two double and two single blocks, a few examples, images and zips."""

import copy
import dataclasses
import functools
import io
import json
import random
import shutil
import socket
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from diffusers.models.modeling_utils import ModelMixin
from PIL import Image
from safetensors.torch import load
from torch import Tensor, nn

from lora.base.family import SamplingSettings
from lora.base.prompt import Prompt
from lora.dataset.cache import Cache, MemoryCache
from lora.dataset.cache_keys import Keys
from lora.dataset.captions import PromptRule
from lora.dataset.encoding import EncodedDataset, Example, ExtraTexts, encode_dataset
from lora.dataset.inspection import Inspector
from lora.dataset.mask_settings import WHITE, MaskSettings
from lora.dataset.pixels import PixelStore
from lora.dataset.reading import Archives, Dataset, read_dataset
from lora.dataset.report import report_on
from lora.families.registry import family_of, family_of_model
from lora.families.weightless import weightless_pipeline
from lora.flux.family import FILE_IDENTITY, FLUX1
from lora.flux.latents import PATCH
from lora.formats.shapes import linear_shapes
from lora.training.learning.adapter import add_lora, lora_tensors
from lora.training.learning.batches import Batch, Batches, NoiseSettings
from lora.training.learning.data_parallel import SingleProcess
from lora.training.learning.loop import take_step
from lora.training.learning.preservation import NeutralImages, Preservation
from lora.training.learning.state import TrainingState
from lora.training.learning.summary import TrainingResult, TrainingSummary, Usage
from lora.training.recipe.config import TrainConfig
from lora.training.recipe.layers import block_layers
from lora.training.recipe.recipe import Recipe
from lora.training.recipe.sigmas import Shift, SigmaRule
from lora.training.result.output import TrainingArtifacts, write_tar
from script.cog_server import ROOT
from script.openapi import training_inputs
from weights.bases import WEIGHTS

# The sizes of FLUX.1-dev, as in the config.json of its transformer.
FLUX_DEV_CONFIG = {
    "num_layers": 19,
    "num_single_layers": 38,
    "num_attention_heads": 24,
    "attention_head_dim": 128,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "in_channels": 64,
    "guidance_embeds": True,
}
TINY_FLUX = WEIGHTS / "tiny-flux"
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
TINY_TEXT_TOKENS = 32  # its text length
SHIFT = Shift(base_tokens=256, max_tokens=4096, base_mu=0.5, max_mu=1.15)
CHANNELS, HEIGHT, WIDTH = 4, 8, 12  # latents are not square, so that swapping rows and columns has an effect
OUTSIDE = torch.ones(HEIGHT, WIDTH)  # of the mask of `masked`
OUTSIDE[2:6, 4:10] = 0  # in whole tokens of 2 x 2 latents
TEXT, TEXT_WIDTH, POOLED = 6, 32, 32
PROJ_OUT_GAIN = 6  # with a random proj_out, the velocity is too small to fit anything
LAYERS = 40  # linear layers in the two double and the two single blocks


def tiny_transformer(*, dtype: torch.dtype = torch.float32, blocks: int = 2) -> FluxTransformer2DModel:
    """A frozen FLUX transformer of two double and two single blocks, or another number of each, always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=blocks,
            num_single_layers=blocks,
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
    """The tiny transformer with a LoRA that changes nothing yet."""
    transformer = tiny_transformer(dtype=dtype)
    add_lora(transformer, layers=all_layers(transformer), rank=rank, seed=seed)
    return transformer


def all_layers(transformer: ModelMixin) -> tuple[str, ...]:
    """All layers that a LoRA can be on."""
    return tuple(block_layers(transformer.config, type(transformer)))


def tiny_pipeline() -> FluxPipeline:
    """weights/tiny-flux, in fp32 on the CPU of any machine."""
    pipeline = FluxPipeline.from_pretrained(TINY_FLUX, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def linked_base(folder: Path, base: Path = TINY_FLUX) -> Path:
    """weights/tiny-flux, or another base, as a folder of links; a test may `replace` its files."""
    shutil.copytree(base, folder, copy_function=lambda source, link: Path(link).symlink_to(source))
    return folder


def base_with_text_length(tokens: object, folder: Path) -> Path:
    """weights/tiny-flux with another text length."""
    config = linked_base(folder) / "tokenizer_2/tokenizer_config.json"
    replace(config, json.dumps(json.loads(config.read_text()) | {"model_max_length": tokens}).encode())
    return folder


def base_with_few_prompts(folder: Path, base: Path = TINY_FLUX) -> Path:
    """weights/tiny-flux, or another base, with only two neutral prompts, to save time."""
    prompts = json.dumps(["a red star in a meadow", "a blue heart in the desert"])
    replace(linked_base(folder, base) / "neutral_prompts.json", prompts.encode())
    return folder


def with_few_blocks(base: Path) -> Path:
    """A base that `linked_base` made, now with only the first block of each kind, to save time: 20 linear layers in
    FLUX.1, 14 in FLUX.2."""
    kind = family_of(base).components.transformer
    whole = kind.from_pretrained(base / "transformer")
    few = kind.from_config({**whole.config, "num_layers": 1, "num_single_layers": 1})
    few.load_state_dict({name: whole.state_dict()[name] for name in few.state_dict()})
    shutil.rmtree(base / "transformer")
    few.save_pretrained(base / "transformer")
    return base


def replace(file: Path, content: bytes) -> Path:
    """Replace a file or a link by a file with this content."""
    file.unlink(missing_ok=True)
    return write(file, content)


def lora_parameters(transformer: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a transformer's LoRA."""
    return {name: parameter for name, parameter in transformer.named_parameters() if ".lora_" in name}


def randomize_lora(transformer: nn.Module, *, seed: int = 0, spread: float = 0.05) -> None:
    """Fill every B with random numbers, so that the LoRA is not zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in lora_parameters(transformer).items():
        if ".lora_B." in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * spread)


def random_lora(bare: FluxTransformer2DModel, *, rank: int = 4, seed: int = 0, spread: float = 0.05):
    """The saved tensors of a LoRA for a transformer, which does not change."""
    transformer = copy.deepcopy(bare)
    add_lora(transformer, layers=all_layers(transformer), rank=rank, seed=seed)
    randomize_lora(transformer, seed=seed, spread=spread)
    return lora_tensors(transformer)


def one_layer_lora() -> dict[str, torch.Tensor]:
    """The saved tensors of a LoRA on one layer of weights/tiny-flux, which is not loaded."""
    (name, shape), *_ = linear_shapes(weightless_pipeline(TINY_FLUX).transformer).items()
    halves = {"A": torch.ones(4, shape.inputs), "B": torch.ones(shape.outputs, 4)}
    return {f"transformer.{name}.lora_{half}.weight": tensor for half, tensor in halves.items()}


def save_transformer(transformer: ModelMixin, base: Path, **options: object) -> None:
    """Save a transformer as that of a base in diffusers layout, which has no other component."""
    transformer.save_pretrained(base / "transformer", **options)
    pipeline = family_of_model(transformer).components.pipeline.__name__
    (base / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))


def sampling_settings(side: int, *, steps: int, guidance: float = 3.5, seed: int = 1) -> SamplingSettings:
    """The settings of a square image."""
    return SamplingSettings(
        width=side, height=side, steps=steps, guidance=guidance, seed=seed, after_step=lambda _: None
    )


def tiny_prompt(*, seed: int) -> Prompt:
    """A random prompt."""
    generator = torch.Generator().manual_seed(seed)
    return Prompt(torch.randn(TEXT, TEXT_WIDTH, generator=generator), torch.randn(POOLED, generator=generator))


def tiny_example(*, seed: int, height: int = HEIGHT, width: int = WIDTH) -> Example:
    """An example with latents and prompt from the same seed."""
    latents = torch.randn(CHANNELS, height, width, generator=torch.Generator().manual_seed(1000 + seed))
    return Example(latents, tiny_prompt(seed=seed), content=str(seed))


def tiny_dataset(count: int = 4) -> EncodedDataset:
    """Examples of one size."""
    return EncodedDataset(tuple(tiny_example(seed=index) for index in range(count)), dropped=tiny_prompt(seed=999))


def masked(example: Example, weight: float) -> Example:
    """An example with a mask, and this weight outside of it, which is where `OUTSIDE` is 1."""
    return dataclasses.replace(example, weights=1 - OUTSIDE * (1 - weight))


def masked_dataset(weight: float, *, count: int = 3, only_first: bool = False) -> EncodedDataset:
    """The examples of `tiny_dataset`, of which the first one or all have a mask."""
    first, *others = tiny_dataset(count).examples
    rest = others if only_first else [masked(each, weight) for each in others]
    return EncodedDataset((masked(first, weight), *rest), dropped=tiny_prompt(seed=999))


def tiny_batch(count: int = 4) -> Batch:
    """A batch of examples in order."""
    examples = tiny_dataset(count).examples
    return Batch(torch.stack([e.latents for e in examples]), Prompt.stack([e.prompt for e in examples]))


def a_recipe(**changes: object) -> Recipe:
    """The recipe of a short training, with the changes of a test."""
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
        "preservation_weight": 1.0,
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
    """The batches of a training on random examples."""
    noise_settings, dataset = _noise_settings(recipe), dataset or tiny_dataset()
    return Batches(dataset, batch_size=recipe.batch_size, noise_settings=noise_settings, seed=recipe.seed)


def tiny_preservation(
    transformer: FluxTransformer2DModel, recipe: Recipe, *, images: int = 3, processes: int = 1
) -> Preservation:
    """Preservation with random prompts; its images are not generated yet."""
    neutral = NeutralImages(
        TINY_FLUX, tuple(tiny_prompt(seed=200 + index) for index in range(images)), negative=None, side=32
    )
    return Preservation(transformer, recipe, _noise_settings(recipe), neutral, processes=processes)


def _noise_settings(recipe: Recipe) -> NoiseSettings:
    return NoiseSettings(recipe.sigma_rule, recipe.offset_noise, recipe.caption_dropout_rate, SHIFT, PATCH)


def trained(
    transformer: FluxTransformer2DModel,
    recipe: Recipe,
    dataset: EncodedDataset | None = None,
    preservation: Preservation | None = None,
):
    """Take all steps of a recipe on a transformer that has a LoRA, and load the average of its weights."""
    state, batches = TrainingState(transformer, recipe), tiny_batches(recipe, dataset)
    steps = [
        take_step(transformer, state, batches, recipe, process_group=SingleProcess(), preservation=preservation)
        for _ in range(recipe.steps)
    ]
    state.average.copy_to(state.parameters)
    return steps


def written(transformer: FluxTransformer2DModel, dataset: Dataset, into: Path, **changes: object) -> Path:
    """Write the tar of a training that ended with this LoRA; `changes` are fields of its artifacts or its recipe."""
    names = {"result", "samples", "layout", "checkpoints", "base_model", "plan", "run", "page"} & changes.keys()
    fields = {name: changes.pop(name) for name in names}
    settings = a_recipe(**changes).settings() | {"trigger_word": "TOK", "resolutions": (64,)}
    settings |= {"base_model": fields.pop("base_model", "dev"), "images": len(dataset.images)}
    summary = TrainingSummary(3, "the last", 3, 3, 0, 0, None, (), ())
    result = TrainingResult(lora_tensors(transformer), summary, Usage(3, 0.3, 0.0, None))
    others = {"result": result, "samples": into / "samples", "layout": "none", "checkpoints": {}}
    others |= {"plan": {"precision": "bf16"}, "run": {}, "page": "<!doctype html>"}
    artifacts = TrainingArtifacts(
        identity=FILE_IDENTITY,
        layer_names=FLUX1.layer_names,
        settings=settings,
        dataset=dataset,
        report=report_on(dataset, rule=PromptRule("TOK", "", ""), resolutions=(64,)),
        **others | fields,
    )
    return write_tar(artifacts, into=into)


@functools.cache
def _defaults() -> dict[str, object]:
    return {name: schema.get("default") for name, schema in training_inputs(ROOT).items()}


def checked_config(**inputs: object) -> TrainConfig:
    """The configuration for some inputs, with the defaults of the signature for all others."""
    defaults = _defaults()
    not_settings = ("input_images", "input_captions", "resume_from")
    return TrainConfig.checked(**{n: v for n, v in (defaults | inputs).items() if n not in not_settings})


@dataclass(frozen=True)
class ReadArchive:
    """A data set that was read from an archive, and the inspector of its images."""

    dataset: Dataset
    inspector: Inspector
    trigger_word: str
    sample_prompts: tuple[str, ...] = ()
    neutral_prompts: tuple[str, ...] = ()
    negative: str | None = None

    def encoded(
        self,
        encoders: FluxPipeline,
        *,
        base: Path = TINY_FLUX,
        cache: Cache | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> EncodedDataset:
        """Encode the data set as a training does."""
        on = encoders.device
        keys, cache = Keys.of(encoders, base, on=on), cache or MemoryCache()
        extra = ExtraTexts(self.trigger_word, self.sample_prompts, self.neutral_prompts, self.negative)
        return encode_dataset(encoders, self.dataset, self.inspector, extra, on=on, keys=keys, cache=cache, check=check)


def read_archive(
    archive: Path,
    *,
    into: Path,
    resolutions=(64,),
    trigger_word="TOK",
    prefix="",
    suffix="",
    captions=None,
    crops=1,
    unmasked_weight=1.0,
    mask_background=WHITE,
    multiline_split=False,
) -> ReadArchive:
    """Read an archive as a training does."""
    masks = MaskSettings(unmasked_weight, mask_background)
    inspector = Inspector(resolutions, PixelStore(into / "pixels"), crops=crops, masks=masks)
    rule = PromptRule(trigger_word, prefix, suffix, multiline_split)
    dataset = read_dataset(Archives(archive, captions), into=into, inspector=inspector, rule=rule)
    return ReadArchive(dataset, inspector, trigger_word)


@contextmanager
def recorded_calls(transformer: nn.Module):
    """A list to which the keyword arguments of each call of a transformer are appended."""
    calls: list[dict[str, object]] = []
    hook = transformer.register_forward_pre_hook(lambda _module, _args, kwargs: calls.append(kwargs), with_kwargs=True)
    try:
        yield calls
    finally:
        hook.remove()


def assert_same_call(ours: Mapping[str, object], theirs: Mapping[str, object]) -> None:
    """Assert equal names, values, shapes and precisions."""
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        if isinstance(value, Tensor):
            assert ours[name].dtype == value.dtype, name
            assert ours[name].shape == value.shape, name
            assert torch.equal(ours[name], value), name
        else:
            assert (ours[name] or None) == (value or None), name  # no options may be {} or None


def assert_one_sentence(error: object, *found: str) -> None:
    """Assert that an error is one line that contains all of `found`."""
    message = str(error)
    assert "\n" not in message
    for part in found:
        assert part in message, message


@contextmanager
def without_network() -> Iterator[list[object]]:
    """Inside the `with` block, no host can be reached; yields the addresses that are asked for."""
    asked: list[object] = []

    def refuse(*address: object, **_: object) -> None:
        asked.append(address)
        raise OSError("no network in this test")

    with mock.patch.object(socket, "getaddrinfo", refuse), mock.patch.object(socket.socket, "connect", refuse):
        yield asked


def load_tensors(content: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file, read with the safetensors library."""
    return load(content)


def solid_image(width: int = 96, height: int = 80, *, color: object = (200, 30, 60), mode: str = "RGB") -> Image.Image:
    """An image of one color."""
    return Image.new(mode, (width, height), color)


def noisy_image(width: int = 96, height: int = 80, *, seed: int = 0) -> Image.Image:
    """An image of noise, which cannot be compressed."""
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
    """Write a file with this content."""
    path.write_bytes(content)
    return path
