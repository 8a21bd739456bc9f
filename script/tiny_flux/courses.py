"""The kinds of batches that the transformer is trained on, and their samples. Knows no networks."""

import random
from dataclasses import dataclass

from torch import Tensor

from script.tiny_flux.captions import Caption, training_caption
from script.tiny_flux.pictures import EncodedImage, ImageStore, Size

NOT_SQUARE = 0.2  # share of the full-size steps that use wide or tall images


@dataclass(frozen=True, slots=True)
class Sample:
    """The latents of an image, and its caption."""

    latents: Tensor  # fp16, as the transformer expects them
    caption: Caption


@dataclass(frozen=True, slots=True)
class Course:
    """A kind of batch: images of one size."""

    size: Size
    pictures: int  # number of different images
    batch: int  # batch size
    practised: int = 0  # how many samples of a batch show the figure of the practice LoRA, if one is applied


@dataclass(frozen=True, slots=True)
class Courses:
    """All kinds of batches. Small images come first; a share of the later steps uses wide or tall ones."""

    small: Course
    full: Course
    wide: Course
    tall: Course

    def choose(self, *, is_small: bool, rng: random.Random) -> Course:
        """Return the course of a step."""
        if is_small:
            return self.small
        return rng.choice((self.wide, self.tall)) if rng.random() < NOT_SQUARE else self.full


class Curriculum:
    """Returns random samples of each course, whose images are loaded when the first are asked for."""

    def __init__(self, courses: Courses, store: ImageStore) -> None:
        self.courses, self._store = courses, store
        self._images: dict[Size, list[EncodedImage]] = {}

    def samples(self, course: Course, count: int, rng: random.Random) -> list[Sample]:
        """Return `count` random samples of a course, with captions."""
        if course.size not in self._images:
            self._images[course.size] = self._store.images(course.size, course.pictures)
        images = rng.choices(self._images[course.size], k=count)
        return [Sample(image.latents, training_caption(image.subject, rng)) for image in images]
