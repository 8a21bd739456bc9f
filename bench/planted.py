"""Faults that are planted in photographs: blur and noise, copies that were changed, images without contrast."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import skimage
from PIL import Image, ImageEnhance, ImageFilter

# What scikit-image ships: photographs in focus, of people, animals, things, surfaces, a microscope and a telescope.
PHOTOGRAPHS = (
    *("astronaut", "brick", "camera", "chelsea", "coffee", "coins", "grass", "gravel"),
    *("hubble_deep_field", "immunohistochemistry", "moon", "retina", "rocket"),
)
FILES = Path(skimage.__file__).with_name("data")
FILE_NAMES = {"immunohistochemistry": "ihc"}  # where it is not the photograph's
BLURS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)  # pixels
NOISES = (0.0, 4.0, 8.0)  # standard deviation, of 255

Change = Callable[[Image.Image], Image.Image]


def photograph(name: str) -> Image.Image:
    """A photograph of scikit-image, in RGB. Its file is read here, as scikit-image would need SciPy to do it: that is
    not installed, because diffusers and transformers import it wherever it is, which the image has no need of."""
    (path,) = FILES.glob(f"{FILE_NAMES.get(name, name)}.*")
    with Image.open(path) as image:
        return image.convert("RGB")


def blurred(image: Image.Image, radius: float, noise: float) -> Image.Image:
    """The image after a Gaussian blur, then with the noise of a sensor."""
    return noisy(image.filter(ImageFilter.GaussianBlur(radius)) if radius else image, noise)


def noisy(image: Image.Image, deviation: float) -> Image.Image:
    """The image with white noise; always the same."""
    pixels = np.asarray(image, dtype=np.float32)
    noise = np.random.default_rng(0).normal(0, deviation, pixels.shape) if deviation else np.zeros(pixels.shape)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).round().astype(np.uint8))


def cropped(image: Image.Image, share: float, *, left: float, top: float) -> Image.Image:
    """A crop that keeps a share of each side; `left` and `top` are shares of what is cut away."""
    width, height = round(image.width * share), round(image.height * share)
    x, y = round((image.width - width) * left), round((image.height - height) * top)
    return image.crop((x, y, x + width, y + height))


def square(image: Image.Image) -> Image.Image:
    """The middle of an image, three quarters of its longer side at least."""
    side = max(min(image.size), max(image.size) * 3 // 4)
    width, height = min(side, image.width), min(side, image.height)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def warmer(image: Image.Image, share: float) -> Image.Image:
    """The image with more red and less blue; cooler below 0."""
    gains = np.array([1 + share, 1, 1 - share])
    return Image.fromarray(np.clip(np.asarray(image) * gains, 0, 255).astype(np.uint8))


def compressed(image: Image.Image, quality: int) -> Image.Image:
    """The image after JPEG compression."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def mirrored(image: Image.Image) -> Image.Image:
    """The image, left and right exchanged."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def faded(image: Image.Image, share: float) -> Image.Image:
    """The image with a share of its contrast, around a light gray."""
    return Image.blend(Image.new("RGB", image.size, (190, 190, 190)), image, share)


def focused(image: Image.Image, *, share: float) -> Image.Image:
    """The image, blurred but for a disc in the middle with a share of its area: a shallow depth of field."""
    rows, columns = np.mgrid[: image.height, : image.width]
    distance = np.hypot(rows - image.height / 2, columns - image.width / 2)
    radius = np.sqrt(share * image.width * image.height / np.pi)
    mask = Image.fromarray((np.clip((radius - distance) / 10 + 0.5, 0, 1) * 255).astype(np.uint8))
    return Image.composite(image, image.filter(ImageFilter.GaussianBlur(6)), mask)


COPIES: Mapping[str, Change] = {
    "half the size": lambda image: image.reduce(2),
    "JPEG of quality 20": lambda image: compressed(image, 20),
    "crop of 90 %, middle": lambda image: cropped(image, 0.9, left=0.5, top=0.5),
    "crop of 90 %, corner": lambda image: cropped(image, 0.9, left=0, top=0),
    "crop of 80 %": lambda image: cropped(image, 0.8, left=0.3, top=0.8),
    "crop of 75 %": lambda image: cropped(image, 0.75, left=0.9, top=0.4),
    "cropped to a squarer shape": square,
    "mirrored": mirrored,
    "mirrored crop of 88 %": lambda image: mirrored(cropped(image, 0.88, left=0.2, top=0.6)),
    "brightness 1.3": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
    "brightness 0.7": lambda image: ImageEnhance.Brightness(image).enhance(0.7),
    "warmer by 20 %": lambda image: warmer(image, 0.2),
    "cooler by 20 %": lambda image: warmer(image, -0.2),
    "contrast 0.6": lambda image: ImageEnhance.Contrast(image).enhance(0.6),
    "saturation 1.5": lambda image: ImageEnhance.Color(image).enhance(1.5),
    "without color": lambda image: image.convert("L").convert("RGB"),
    "blur of 3 px": lambda image: image.filter(ImageFilter.GaussianBlur(3)),
    "noise of 15": lambda image: noisy(image, 15),
    "rotated by 2°": lambda image: cropped(image.rotate(2, Image.Resampling.BICUBIC), 0.93, left=0.5, top=0.5),
    "crop, mirrored, warmer, brighter, JPEG": lambda image: compressed(
        mirrored(warmer(ImageEnhance.Brightness(cropped(image, 0.9, left=0.2, top=0.7)).enhance(1.2), 0.1)), 60
    ),
}
FADED: Mapping[str, Change] = {
    "contrast of 25 %": lambda image: faded(image, 0.25),
    "contrast of 15 %": lambda image: faded(image, 0.15),
}
EMPTY: Mapping[str, Image.Image] = {
    "black": Image.new("RGB", (512, 512), "black"),
    "white": Image.new("RGB", (512, 512), "white"),
    "red": Image.new("RGB", (512, 512), "red"),
    "black, noise of 8": noisy(Image.new("RGB", (512, 512), "black"), 8),
    "gray, noise of 8": noisy(Image.new("RGB", (512, 512), "gray"), 8),
    "white, JPEG of quality 40": compressed(Image.new("RGB", (512, 512), "white"), 40),
}
