"""Refuses folders of other models than FLUX.1 by what their configurations say. Reads no weights."""

from pathlib import Path

from weights.base_files import INDEX, json_object
from weights.printed import quoted

CLASS = "_class_name"
# The pipelines of diffusers that have the components of FLUX.1, and nothing else
PIPELINES = frozenset({"FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline"})
TRANSFORMER = "FluxTransformer2DModel"
CHANNELS = 64  # 16 channels of latents in patches of 2 x 2
MODELS = {  # other pipelines that are often taken for it -> what they are called
    "FluxFillPipeline": "FLUX.1 Fill",
    "FluxKontextPipeline": "FLUX.1 Kontext",
    "FluxKontextInpaintPipeline": "FLUX.1 Kontext",
    "FluxControlPipeline": "FLUX.1 Canny or Depth",
    "FluxPriorReduxPipeline": "FLUX.1 Redux",
    "Flux2Pipeline": "FLUX.2",
    "Flux2KleinPipeline": "FLUX.2 klein",
    "StableDiffusion3Pipeline": "Stable Diffusion 3",
    "StableDiffusionXLPipeline": "Stable Diffusion XL",
    "StableDiffusionPipeline": "Stable Diffusion",
    "ChromaPipeline": "Chroma",
    "QwenImagePipeline": "Qwen-Image",
    "ZImagePipeline": "Z-Image",
}
WIDTHS = {384: "FLUX.1 Fill", 128: "FLUX.1 Canny or Depth, or FLUX.2", 16: "Stable Diffusion 3"}
EXPECTED = "expected FLUX.1-dev, FLUX.1-Krea-dev, FLUX.1-schnell, or a model with their architecture"


def check_kind(folder: Path) -> None:
    """Check that a folder holds FLUX.1 for images from text, as far as its configurations are there.

    Raises ValueError, with a sentence that starts with the path of a file, for another model: by the class of the
    pipeline or the transformer, or by the width of the transformer's input, where Fill and Canny have FLUX.1's class.
    """
    index = _config(folder / INDEX)
    found = index.get(CLASS)
    if isinstance(found, str) and found not in PIPELINES:
        raise ValueError(f"{folder / INDEX} has the class {quoted(found)}{_of(MODELS.get(found))}: {EXPECTED}")
    file = folder / "transformer" / "config.json"
    config = _config(file)
    found, channels = config.get(CLASS), config.get("in_channels")
    if isinstance(found, str) and found != TRANSFORMER:
        raise ValueError(f"{file} has the class {quoted(found)}: {EXPECTED}")
    if isinstance(channels, int) and channels != CHANNELS:
        raise ValueError(
            f"{file} has {channels} for in_channels, not {CHANNELS}{_of(WIDTHS.get(channels))}: {EXPECTED}"
        )


def _of(model: str | None) -> str:
    return f", that of {model}" if model else ""


def _config(file: Path) -> dict[str, object]:
    """Return the content of a file; nothing if it is missing or damaged, which `check_folder` reports."""
    try:
        return json_object(file)
    except (OSError, ValueError):
        return {}
