"""How far a request is, in the form in which Replicate's clients read it out of the log. Prints nothing."""

import time
from collections.abc import Callable

SECONDS_BETWEEN_LINES = 1.0
WIDTH = 20

Say = Callable[[str], None]


class Progress:
    """At most one line a second, and one at the end."""

    def __init__(self, say: Say, *, images: int) -> None:
        self._say, self._images = say, images
        self._done, self._said = 0, time.monotonic()

    def step(self, *, of: int) -> None:
        """One denoising step is done, of so many for each image."""
        self._done, total, now = self._done + 1, of * self._images, time.monotonic()
        if self._done == total or now - self._said >= SECONDS_BETWEEN_LINES:
            self._said = now
            self._say(
                f"{100 * self._done // total:3d}%|{'#' * (WIDTH * self._done // total):<{WIDTH}}| {self._done}/{total}"
            )
