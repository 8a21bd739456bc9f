"""Which batches the transformer is taught with, and what a sample of one is. Knows no networks."""

import random
from dataclasses import dataclass

from torch import Tensor

from script.tiny_flux.captions import Caption, training_caption
from script.tiny_flux.pictures import Picture, PictureStore, Size

SIDEWAYS = 0.2  # share of the full steps that are wide or tall


@dataclass(frozen=True, slots=True)
class Sample:
    """One example of a batch."""

    latents: Tensor  # fp16 [16, H/8, W/8]
    caption: Caption


@dataclass(frozen=True, slots=True)
class Course:
    """A kind of batch: pictures of one size, out of so many, and how many at once."""

    size: Size
    pictures: int
    batch: int
    practised: int = 0  # samples of a lesson's subject in the batch, where there is a lesson


@dataclass(frozen=True, slots=True)
class Courses:
    """All of them. Small pictures come first; a share of the later steps is wide or tall."""

    small: Course
    full: Course
    wide: Course
    tall: Course

    def choose(self, *, is_small: bool, rng: random.Random) -> Course:
        """The course of a step."""
        if is_small:
            return self.small
        return rng.choice((self.wide, self.tall)) if rng.random() < SIDEWAYS else self.full


class Curriculum:
    """Draws random samples of each course from its pictures."""

    def __init__(self, courses: Courses, store: PictureStore) -> None:
        self.courses = courses
        self._pictures: dict[Size, list[Picture]] = {
            course.size: store.pictures(course.size, course.pictures)
            for course in (courses.small, courses.full, courses.wide, courses.tall)
        }

    def samples(self, course: Course, count: int, rng: random.Random) -> list[Sample]:
        """So many of a course, with captions."""
        pictures = rng.choices(self._pictures[course.size], k=count)
        return [Sample(picture.latents, training_caption(picture.subject, rng)) for picture in pictures]
