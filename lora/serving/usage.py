"""What a prediction takes: images, steps and seconds, as metrics of the server. Generates nothing."""

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from PIL import Image

RecordMetric = Callable[[str, float], object]


@dataclass(slots=True)
class Usage:
    """What one prediction has taken so far, in wall time."""

    steps: int = 0  # denoising steps of all images together
    lora_seconds: float = 0.0  # to fetch, read and apply the LoRAs
    image_seconds: float = 0.0  # from the prompt to the pixels of all images

    @contextmanager
    def on_loras(self) -> Iterator[None]:
        """Add the time of the block to `lora_seconds`."""
        started = time.perf_counter()
        yield
        self.lora_seconds += time.perf_counter() - started

    @contextmanager
    def on_images(self) -> Iterator[None]:
        """Add the time of the block to `image_seconds`."""
        started = time.perf_counter()
        yield
        self.image_seconds += time.perf_counter() - started

    def record(self, record_metric: RecordMetric, images: Collection[Image.Image]) -> None:
        """Record everything as metrics, with the number of the returned images and their megapixels together.

        A dot in a name makes Cog nest it: `{"metrics": {"predict": {"image_count": 1, ...}}}`.
        """
        record_metric("predict.image_count", len(images))
        record_metric("predict.megapixels", round(sum(image.width * image.height for image in images) / 1e6, 6))
        record_metric("predict.steps", self.steps)
        record_metric("predict.lora_seconds", round(self.lora_seconds, 3))
        record_metric("predict.image_seconds", round(self.image_seconds, 3))
