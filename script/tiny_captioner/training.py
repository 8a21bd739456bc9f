"""Trains the captioner on pictures that are rendered as they are needed, so that no picture is seen twice."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BlipForConditionalGeneration, BlipProcessor

from script.tiny_captioner.examples import COLOUR_NAMES, FIGURES, PLACES, Example, any_example, words_for
from script.tiny_captioner.model import END, START, Dimensions, build_model, build_processor
from script.tiny_flux.optimization import Optimization
from script.tiny_flux.schedule import Progress, warm_up_then_cosine

MATRIX = 2  # number of dimensions
WEIGHT_DECAY = 0.01


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that decides the weights, on one machine with one number of threads."""

    seed: int
    dimensions: Dimensions
    steps: int
    batch: int
    warm_up: int
    matrix_rate: float  # the learning rate of Muon, for the matrices of the layers
    rate: float  # of AdamW, for all else


@dataclass(frozen=True, slots=True)
class Captioner:
    """The network and its processor."""

    model: BlipForConditionalGeneration
    processor: BlipProcessor


@dataclass(frozen=True, slots=True)
class _Batch:
    pixels: Tensor  # [N, 3, side, side]
    tokens: Tensor  # [N, L]
    mask: Tensor  # [N, L], 0 for padding
    contents: Tensor  # [N, 3]: the numbers of the figure, the colour and the place


class _Classifiers(nn.ModuleList):
    """Linear classifiers of figure, colour and place on the mean of all patches, for the training alone: one word in
    eight of a caption says the shape, which is little to learn it from."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, len(names)) for names in (FIGURES, COLOUR_NAMES, PLACES))

    def loss(self, patches: Tensor, contents: Tensor) -> Tensor:
        """Return the cross-entropy, half of it that of the figure; `patches` are [N, patches, width]."""
        mean = patches.mean(dim=1)
        figure, colour, place = (
            functional.cross_entropy(layer(mean), contents[:, number]) for number, layer in enumerate(self)
        )
        return figure + 0.5 * colour + 0.5 * place


def trained(settings: Settings) -> Captioner:
    """Return a captioner that is trained by the settings."""
    torch.manual_seed(settings.seed)
    processor = build_processor(settings.dimensions.side)
    model = build_model(settings.dimensions, len(processor.tokenizer)).train()
    classifiers, rng = _Classifiers(settings.dimensions.width), random.Random(settings.seed)
    optimization = _optimization(model, classifiers, settings)
    progress = Progress("captioner", settings.steps, done=0)
    for _ in range(settings.steps):
        batch = _batch_of([any_example(rng) for _ in range(settings.batch)], processor)
        loss = _loss(model, classifiers, batch)
        loss.backward()
        optimization.step()
        progress.advance(loss.item())
    optimization.use_average()
    return Captioner(model.eval(), processor)


def _batch_of(examples: Sequence[Example], processor: BlipProcessor) -> _Batch:
    contents = [example.content for example in examples]
    texts = [f"{START} {words_for(content)} {END}" for content in contents]
    text = processor.tokenizer(texts, padding=True, return_tensors="pt")
    images = processor.image_processor([example.image for example in examples], return_tensors="pt")
    numbers = [
        (FIGURES.index(each.figure), COLOUR_NAMES.index(each.colour), PLACES.index(each.background))
        for each in contents
    ]
    return _Batch(images["pixel_values"], text["input_ids"], text["attention_mask"], torch.tensor(numbers))


def _loss(model: BlipForConditionalGeneration, classifiers: _Classifiers, batch: _Batch) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        patches = model.vision_model(pixel_values=batch.pixels).last_hidden_state
    patches = patches.float()
    written = model.text_decoder(
        input_ids=batch.tokens,
        attention_mask=batch.mask,
        encoder_hidden_states=patches,
        labels=batch.tokens.masked_fill(batch.mask == 0, -100),  # -100 is not learned
        reduction="mean",
    )
    loss: Tensor = written.loss + classifiers.loss(patches, batch.contents)
    return loss


def _optimization(model: nn.Module, classifiers: nn.Module, settings: Settings) -> Optimization:
    """Muon for the matrices of the layers and AdamW for all else, as for the base."""
    layers = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    matrices = [weight for layer in layers for weight in layer.parameters() if weight.ndim == MATRIX]
    known = set(map(id, matrices))
    others = [weight for each in (model, classifiers) for weight in each.parameters() if id(weight) not in known]
    return Optimization(
        [
            torch.optim.Muon(matrices, lr=settings.matrix_rate, weight_decay=WEIGHT_DECAY),
            torch.optim.AdamW(others, lr=settings.rate, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY),
        ],
        rate_factor=warm_up_then_cosine(settings.steps, warm_up=settings.warm_up),
    )
