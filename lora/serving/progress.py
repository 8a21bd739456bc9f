"""Formats the progress of a request as lines that Replicate's clients parse from the log. Prints nothing."""

import time
from collections.abc import Callable

SECONDS_BETWEEN_LINES = 1.0
WIDTH = 20

LogLine = Callable[[str], object]  # takes one line of the log


class Progress:
    """Logs the progress: at most one line per second, and one at the end."""

    def __init__(self, log_line: LogLine, *, images: int) -> None:
        self._log_line, self._images = log_line, images
        self._done, self._logged = 0, time.monotonic()

    @property
    def done(self) -> int:
        """The number of denoising steps so far, of all images together."""
        return self._done

    def step(self, *, of: int) -> None:
        """Count one denoising step; each image takes `of` steps."""
        self._done, total, now = self._done + 1, of * self._images, time.monotonic()
        if self._done == total or now - self._logged >= SECONDS_BETWEEN_LINES:
            self._logged = now
            self._log_line(
                f"{100 * self._done // total:3d}%|{'#' * (WIDTH * self._done // total):<{WIDTH}}| {self._done}/{total}"
            )
