"""Random requests to a predictor of two families, from the schema that it serves, each with its expected errors."""

import io
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from safetensors.torch import save

from lora.formats.kohya import kohya_tensors
from lora.images.files import DecodedImage
from lora.images.size import Size
from lora.serving.sources import Source
from tests.cog_client import Json, data_uri
from tests.families import FIRST, KLEIN, TINY_BASES, TinyBase
from tests.tiny import random_lora

PROMPTS = ("a red star", "", "  ", "TOK\nin\tlines", "星 ⭐ \U0001f600", "a blue square " * 300, "a drawing of TOK")
MODES = ("RGB", "RGBA", "L", "P", "LA", "CMYK")
# Limits for inputs that would take minutes on a CPU; other tests check the real bounds.
MOST = {"num_inference_steps": 2, "num_outputs": 2, "width": 144, "height": 144}
DEFAULT_STEPS = 0.2  # how often they stay if no steps are given: these 28 steps take a second on a CPU
OTHER_FAMILY = 0.1  # how often a LoRA may be of the other family, too
# Never given: most pairs of names contradict.
OTHER_NAMES = ("hf_lora", "hf_loras", "lora_scales", "lora_strength", "images")
INVALID_LORAS = {
    "neither of these forms/at all": "is not a reference to a LoRA",
    "https://127.0.0.1/x.safetensors": "not allowed",
    "nowhere.safetensors": "does not exist",
    data_uri(b"<html>", media_type="text/html"): "a web page",
    data_uri(b"\x80\x04pickle", media_type="application/x-tar"): "a pickle",
}
# The models that there are: by the embedded FLUX.1, which takes guidance as they do, and by klein, which is installed.
KLEIN_MODEL = "klein"
FAMILIES = {**dict.fromkeys((None, "dev", "krea"), FIRST.family.name), KLEIN_MODEL: KLEIN.family.name}
OF_ANOTHER_FAMILY = ("it was made for FLUX.", "as in FLUX.")
BROKEN_IMAGE = data_uri(b"\x89PNG\r\n\x1a\nbroken", media_type="image/png")


@dataclass(frozen=True)
class RandomRequest:
    """A request and its expected errors, as parts of their sentences, one of which it has. A request without any must
    succeed."""

    inputs: Json
    faults: tuple[str, ...]


def some_loras() -> dict[str, list[str]]:
    """Return LoRAs of several ranks, layers and layouts for each family, as data URIs."""
    return {tiny.family.name: list(_loras_for(tiny)) for tiny in TINY_BASES}


def _loras_for(tiny: TinyBase) -> Iterator[str]:
    transformer = tiny.family.components.transformer.from_pretrained(tiny.folder / "transformer")
    large, small = random_lora(transformer, rank=8, seed=1), random_lora(transformer, rank=2, seed=2)
    some = {name: tensor for name, tensor in large.items() if ".ff." in name}
    for tensors in (large, some, kohya_tensors(small, tiny.family.layer_names)):
        yield data_uri(save(tensors), media_type="x/y")


class RandomRequests:
    """Makes random requests, the same for the same seed."""

    def __init__(self, openapi: Json, loras: Mapping[str, list[str]], *, seed: int) -> None:
        """`loras` are those of each family."""
        self._schemas: dict[str, Any] = openapi["components"]["schemas"]
        self._loras, self._random, self._random_steps = loras, random.Random(seed), random.Random(seed)
        self._family = FIRST.family.name  # of the base that the request is for

    def request(self) -> RandomRequest:
        """Make a request. Each input is given with a probability of one half, and most values are valid."""
        properties = self._schemas["Input"]["properties"]
        names = [name for name in properties if name not in OTHER_NAMES]
        given = [name for name in names if name == "prompt" or self._random.random() < 0.5]
        model = self._random.choice((KLEIN_MODEL, self._of(properties["model"]))) if "model" in given else None
        self._family = FAMILIES.get(model, FIRST.family.name)
        inputs = {name: model if name == "model" else self._value(name, properties[name]) for name in given}
        if "num_inference_steps" not in inputs and self._random_steps.random() >= DEFAULT_STEPS:
            inputs["num_inference_steps"] = self._random_steps.randint(1, MOST["num_inference_steps"])
        return RandomRequest(inputs, tuple(self._faults(inputs)))

    def _value(self, name: str, schema: Json) -> object:
        pick = self._random
        match name:
            case "prompt":
                return pick.choice(PROMPTS)
            case "image" | "mask" | "reference_images":
                return self._files(name)
            case "lora_weights" | "extra_lora" | "replicate_weights":
                return self._reference()
            case "loras":
                listed = [self._reference() for _ in range(pick.randint(0, 2))]
                return [f"{reference}:{pick.choice((-1, 0, 0.5, 2))}" for reference in listed if reference.strip()]
            case "num_inference_steps" | "num_outputs" | "width" | "height":
                return pick.randint(schema["minimum"], MOST[name])
        return self._of(schema)

    def _files(self, name: str) -> str | list[str]:
        """Make a file, or a list of them, which is mostly blank for a base that takes none."""
        is_rare, image = self._random.random() < 0.1, self._image()
        if name != "reference_images":
            return BROKEN_IMAGE if is_rare else image
        if self._family == KLEIN.family.name:
            return [image, BROKEN_IMAGE] if is_rare else [image] * self._random.randint(1, 2)
        return [image] if is_rare else [" "]

    def _reference(self) -> str:
        pick = self._random
        if pick.random() < 0.1:
            return pick.choice(list(INVALID_LORAS))
        family = pick.choice(list(self._loras)) if pick.random() < OTHER_FAMILY else self._family
        return pick.choice([*self._loras[family], " "])

    def _faults(self, inputs: Json) -> list[str]:
        """Return the expected errors of a request, as parts of their sentences."""
        others = {lora for family, loras in self._loras.items() if family != self._family for lora in loras}
        return faults(inputs) + list(OF_ANOTHER_FAMILY if others.intersection(_references(inputs)) else ())

    def _image(self) -> str:
        """Make an image of any shape and mode, as PNG, or as TIFF if PNG does not have the mode."""
        width, height = self._random.randint(64, 200), self._random.randint(64, 200)
        numbers = np.random.default_rng(self._random.randrange(2**32)).integers(0, 256, (height, width, 3), np.uint8)
        mode, file = self._random.choice(MODES), io.BytesIO()
        Image.fromarray(numbers).convert("L" if mode == "LA" else "RGB").convert(mode).save(
            file, "TIFF" if mode == "CMYK" else "PNG"
        )
        return data_uri(file.getvalue(), media_type="image/png")

    def _of(self, schema: Json) -> object:
        """Make any value that is valid in the schema."""
        schema = {**schema, **self._schemas[schema["allOf"][0]["$ref"].split("/")[-1]]} if "allOf" in schema else schema
        pick = self._random
        if "enum" in schema:
            return pick.choice(schema["enum"])
        match schema["type"]:
            case "boolean":
                return pick.random() < 0.5
            case "integer":
                least, most = schema.get("minimum", -1), schema.get("maximum", 2**40)  # only seeds have no bounds
                return pick.choice((least, most, pick.randint(least, most)))
            case "number":
                return pick.choice(
                    (schema["minimum"], schema["maximum"], pick.uniform(schema["minimum"], schema["maximum"]))
                )
        return pick.choice(("", "none", "\U0001f511"))


def faults(inputs: Json) -> list[str]:
    """Return the expected errors of a request but for those about families, as parts of their sentences."""
    found = [INVALID_LORAS[reference] for reference in _references(inputs) if reference in INVALID_LORAS]
    if inputs.get("image") == BROKEN_IMAGE:
        found.append("image cannot be used")
    shown = [image for image in inputs.get("reference_images", []) if image.strip()]
    if shown and inputs.get("model") != KLEIN_MODEL:
        found.append("reference_images needs a base that takes reference images")
    elif BROKEN_IMAGE in shown:
        found.append("reference_images[1] cannot be used")
    if "mask" in inputs and "image" not in inputs:
        found.append("mask is given without image")
    elif inputs.get("mask") == BROKEN_IMAGE:
        found.append("mask cannot be used")
    if len({inputs[name] for name in ("guidance", "guidance_scale") if name in inputs}) > 1:
        found.append("because they are two names of one input")
    if inputs.get("aspect_ratio") == "custom" and not {"width", "height"} <= inputs.keys():
        found.append("custom without width and height")
    if (model := inputs.get("model")) not in FAMILIES:
        found.append(f"model is {model}: weights/{model} is not installed")
    return found


def _references(inputs: Json) -> list[str]:
    """Return the references that are read: replicate_weights only if lora_weights is blank."""
    main = str(inputs.get("lora_weights", "")).strip() or inputs.get("replicate_weights", "")
    listed = [entry.rpartition(":")[0] for entry in inputs.get("loras", [])]
    return [main, inputs.get("extra_lora", ""), *listed]


def a_source(image: Image.Image, mask: Image.Image | None, strength: float) -> Source:
    """Return a source as if it were read from files."""
    box = (0.0, 0.0, float(image.width), float(image.height))
    return Source(DecodedImage(image, box, Size(*image.size), image.width * image.height, False, False), mask, strength)
