"""The strict measure of the monster: one whole, crisp, upright monster per image. Image arithmetic without a network.

The monster's figure is placed where it matches the image best. Then each of its parts must have its colour, and the
surroundings must not. An inspection contains the measurements and lists the faults.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from script.tiny_flux.monster import BODY, FEET, PARTS
from script.tiny_flux.monster_fit import BODY_INDEX, LIMB_INDICES, OUTSIDE, best_fit, part_at
from script.tiny_flux.placement import Fit, overlap, pixel_centres
from script.tiny_flux.world import Colour

# Distances are in RGB with channels 0..1. "Encoded" are real monsters of 128 px after the base's autoencoder.
NEAR = 0.30  # largest distance at which a pixel counts as having a colour
MAX_MEDIAN_DISTANCE = 0.22  # of a part's median from its colour: feet faded half way to a meadow 0.26, encoded 0.16
MIN_SHARES = {"body": 0.75, "eye": 0.60}  # of a part's pixels in its colour
MIN_SHARE_OF_OTHERS = 0.50  # encoded horns 0.62, feet 0.77, pupils 0.85
MAX_STRAY = 0.12  # pixels in the colours of body or limbs outside the figure, relative to its area; encoded 0.04
MIN_LIMB_OVERLAP = 0.60  # of horns and feet with the pixels in their colour: upside down 0.48, encoded 0.71


@dataclass(frozen=True, slots=True)
class PartColours:
    """The colours of one part's pixels."""

    share: float  # of its pixels in the part's colour, 0..1
    median_distance: float


@dataclass(frozen=True, slots=True)
class Inspection:
    """Measurements of an image at the position and size at which the monster's figure matches it best."""

    fit: Fit
    parts: dict[str, PartColours]  # by the names in `PARTS`
    stray: float
    limb_overlap: float  # intersection over union, 0..1

    def faults(self) -> list[str]:
        """Return the faults as text. An image without faults shows the monster."""
        return list(self._faults())

    def _faults(self) -> Iterator[str]:
        for name, found in self.parts.items():
            expected = MIN_SHARES.get(name, MIN_SHARE_OF_OTHERS)
            if found.share < expected:
                yield f"{name}: {found.share:.0%} has its colour, expected at least {expected:.0%}"
            elif found.median_distance > MAX_MEDIAN_DISTANCE:
                yield f"{name}: its colour is {found.median_distance:.2f} off, expected at most {MAX_MEDIAN_DISTANCE}"
        if self.stray > MAX_STRAY:
            yield f"stray pixels: {self.stray:.0%} of the figure's area, expected at most {MAX_STRAY:.0%}"
        if self.limb_overlap < MIN_LIMB_OVERLAP:
            yield f"horns and feet: overlap {self.limb_overlap:.2f}, expected at least {MIN_LIMB_OVERLAP:.2f}"


def is_monster(image: Image.Image, *, body: Colour = BODY, limbs: Colour = FEET) -> bool:
    """Return whether an image shows the monster without faults, in the colours `body` and `limbs`."""
    return not inspect_monster(image, body=body, limbs=limbs).faults()


def inspect_monster(image: Image.Image, *, body: Colour = BODY, limbs: Colour = FEET) -> Inspection:
    """Find the monster in these colours and measure it. The image has sides of at least 96 px and any aspect ratio."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / 255  # [H, W, 3]
    recoloured = {BODY: body, FEET: limbs}
    colours = [recoloured.get(part.colour, part.colour) for part in PARTS]
    near = _near(pixels, colours)
    fit = best_fit(near)
    visible = part_at(*pixel_centres(fit, height=image.height, width=image.width))  # [H, W]
    parts = {
        part.name: _part_colours(pixels[visible == index], near[index][visible == index], colour)
        for index, (part, colour) in enumerate(zip(PARTS, colours, strict=True))
    }
    body_pixels, limb_pixels = near[BODY_INDEX], near[LIMB_INDICES[0]]
    stray = _stray(visible, in_colour=body_pixels | limb_pixels)
    return Inspection(fit, parts, stray, overlap(np.isin(visible, LIMB_INDICES), limb_pixels))


def _near(pixels: np.ndarray, colours: list[Colour]) -> np.ndarray:
    """Return bool [parts, H, W]: which pixels have the colour of which part."""
    by_colour = {colour: _distance(pixels, colour) < NEAR for colour in set(colours)}
    return np.stack([by_colour[colour] for colour in colours])


def _part_colours(pixels: np.ndarray, near: np.ndarray, colour: Colour) -> PartColours:
    """Return the colours of a part's `pixels` [pixels, 3]; a part outside the image has none."""
    if not len(pixels):
        return PartColours(0.0, float("inf"))
    return PartColours(float(near.mean()), float(_distance(np.median(pixels, axis=0), colour)))


def _stray(visible: np.ndarray, *, in_colour: np.ndarray) -> float:
    outside = visible == OUTSIDE
    return float((outside & in_colour).sum() / max(1, (~outside).sum()))


def _distance(pixels: np.ndarray, colour: Colour) -> np.ndarray:
    distance: np.ndarray = np.linalg.norm(pixels - np.array(colour, dtype=np.float32) / 255, axis=-1)
    return distance
