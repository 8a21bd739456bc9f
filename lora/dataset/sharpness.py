"""How blurred an image is, measured at its sharpest edges, in pixels.

The ratio of gradients before and after a known blur gives the blur of an edge: Zhuo and Sim 2011, "Defocus map
estimation from a single image" (Pattern Recognition 44(9)). Where noise hides the edges, they are measured in the image
at half the size. A sharp subject in front of a blurred background is sharp.
"""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Blurs by which edges are compared, in pixels: the smaller one suppresses noise. A blur of 1 px is two binomial passes.
FINE, COARSE = 1.0, 2.0
PASSES_PER_VARIANCE = 2
GRADIENT_VARIANCE = 1 / 3  # of the blur that differences of pixels two apart amount to: two averages, 1/4 and 1/12
LEVELS = 4  # the image, and three times half its size
TILE = 48  # pixels: about the smallest subject in focus that counts; our choice
EDGE_PIXELS = 40  # the strongest ones of a tile, which lie in the middle of edges; our choice
LEAST_GRADIENT = 3.0  # gray levels per pixel, of an edge; our choice
LEAST_SHARE = 0.25  # of the gradient of strong edges of the image; our choice
STRONG = 0.995  # the quantile of gradients that strong edges have
NOISE_RATIO = 6.0  # how many standard deviations of noise an edge exceeds; our choice
SHARPEST_TILES, LEAST_TILES = 0.1, 2  # the sharpness of an image is that of its sharpest tenth of tiles; our choice
LEAST_NOISE = 0.3  # standard deviation of the rounding to 8 bits, 1/sqrt(12)
# The standard deviation of one component of the gradient of white noise after a Gaussian blur of 1 px, per that of the
# noise; it falls with the square of the blur.
GRADIENT_OF_NOISE = 1 / math.sqrt(8 * math.pi) * math.sqrt(2)
MEDIAN_OF_NORMAL = 0.6745  # the median of the absolute value, in standard deviations
BORDER = 2  # pixels next to the edge of the image, which filters change

Floats = NDArray[np.float32]


def blur_of(image: Image.Image) -> float | None:
    """The standard deviation of the blur at the sharpest edges of an RGB image, in its pixels; None without edges.

    It is 0 to 0.7 for the photographs in focus that docs/dataset.md names.
    """
    level: Floats = np.asarray(image.convert("L"), dtype=np.float32)
    for number in range(LEVELS):
        if min(level.shape) < TILE // 2:
            return None
        ratio = _sharpest_ratio(level)
        if ratio is not None:
            return _blur_of_ratio(ratio) * 2**number
        level = _halved(level)
    return None


def _blur_of_ratio(ratio: float) -> float:
    """The blur s of an edge whose gradient after FINE is `ratio` times that after COARSE:
    ratio² = (t² + COARSE²) / (t² + FINE²), where t² is s² and the blur of the gradient itself."""
    square = ratio * ratio
    if square <= 1:
        return math.inf
    variance = (COARSE**2 - square * FINE**2) / (square - 1) - GRADIENT_VARIANCE
    return math.sqrt(max(variance, 0.0))


def _sharpest_ratio(gray: Floats) -> float | None:
    """The ratio of gradients in the sharpest tiles, or None if too few of them have edges above the noise."""
    noise = GRADIENT_OF_NOISE * max(_noise(gray), LEAST_NOISE)
    fine_blurred = _blurred(gray, FINE**2)
    fine = _gradient_energy(fine_blurred)
    coarse = _gradient_energy(_blurred(fine_blurred, COARSE**2 - FINE**2))
    strong = LEAST_SHARE**2 * float(np.quantile(fine, STRONG))
    least = max(NOISE_RATIO**2 * noise**2, LEAST_GRADIENT**2, strong)
    ratios = []
    for tile in _tiles(fine.shape):
        if np.count_nonzero(fine[tile] >= least) >= EDGE_PIXELS:
            is_strongest = np.argpartition(fine[tile], -EDGE_PIXELS, axis=None)[-EDGE_PIXELS:]
            energy = fine[tile].ravel()[is_strongest].mean() - (noise / FINE**2) ** 2
            coarse_energy = coarse[tile].ravel()[is_strongest].mean() - (noise / COARSE**2) ** 2
            ratios.append(math.sqrt(float(energy) / max(float(coarse_energy), 1e-6)))
    if len(ratios) < LEAST_TILES:
        return None
    return sorted(ratios, reverse=True)[max(LEAST_TILES - 1, int(SHARPEST_TILES * len(ratios)))]


def _tiles(shape: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
    """Yield tiles of an image; the last ones are at least half as large."""
    for top in range(0, max(shape[0] - TILE // 2, 1), TILE):
        for left in range(0, max(shape[1] - TILE // 2, 1), TILE):
            yield slice(top, top + TILE), slice(left, left + TILE)


def _noise(gray: Floats) -> float:
    """The standard deviation of noise: Immerkaer 1996, "Fast Noise Variance Estimation", with the median instead of
    the mean, so that edges hardly count. Every second row and column is enough of a sample."""
    rows = gray[:-2:2] - 2 * gray[1:-1:2] + gray[2::2]
    second = rows[:, :-2:2] - 2 * rows[:, 1:-1:2] + rows[:, 2::2]
    return float(np.median(np.abs(second))) / MEDIAN_OF_NORMAL / 6


def _gradient_energy(gray: Floats) -> Floats:
    """The square of the gradient, in gray levels per pixel, without the border."""
    inner = slice(BORDER, -BORDER)
    down = gray[BORDER + 1 : 1 - BORDER, inner] - gray[BORDER - 1 : -BORDER - 1, inner]
    right = gray[inner, BORDER + 1 : 1 - BORDER] - gray[inner, BORDER - 1 : -BORDER - 1]
    down *= down
    right *= right
    down += right
    down *= 0.25  # differences of pixels two apart
    return down


def _blurred(gray: Floats, variance: float) -> Floats:
    """Blur by binomial filters (1, 2, 1) / 4, each with a variance of 1/2: two sums of neighbors a side.

    Alternates between two buffers, as allocating each sum takes longer than computing it.
    """
    passes = round(PASSES_PER_VARIANCE * variance)
    blurred: Floats = np.pad(gray, passes, mode="edge")
    other = np.empty_like(blurred)
    for _ in range(2 * passes):
        height, width = blurred.shape
        rows = other[: height - 1, :width]
        np.add(blurred[:-1], blurred[1:], out=rows)
        blurred = blurred[: height - 1, : width - 1]
        np.add(rows[:, :-1], rows[:, 1:], out=blurred)
    return blurred * np.float32(0.25 ** (2 * passes))


def _halved(gray: Floats) -> Floats:
    height, width = gray.shape[0] // 2 * 2, gray.shape[1] // 2 * 2
    return gray[:height, :width].reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3))
