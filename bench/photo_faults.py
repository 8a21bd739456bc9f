"""Which faults of photos `script/check` finds: recall on faults planted in photographs, and false alarms without any.

Every image goes through the inspection of a training, at resolution 1024.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from bench.planted import BLURS, COPIES, EMPTY, FADED, NOISES, PHOTOGRAPHS, blurred, focused, photograph
from bench.report import argument_parser, table, write_results
from lora.dataset.inspection import Inspection, Inspector
from lora.dataset.photo_advice import BLURRED
from lora.dataset.similarity import near_duplicates
from lora.dataset.tones import FADED_TONES

FOCUSED_SHARES = (0.05, 0.1, 0.2)

Inspect = Callable[[Image.Image], Inspection]


@dataclass(frozen=True, slots=True)
class Extent:
    """What is planted, and in which photographs."""

    photographs: tuple[str, ...]
    blurs: tuple[float, ...]  # pixels
    noises: tuple[float, ...]
    copies: tuple[str, ...]


FULL = Extent(PHOTOGRAPHS, BLURS, NOISES, tuple(COPIES))
SMALL = Extent(("chelsea",), BLURS[-1:], NOISES[:1], tuple(COPIES)[:1])


@dataclass(frozen=True, slots=True)
class Row:
    """How often a fault was reported: in images that have it, and in others of the same set."""

    kind: str
    fault: str
    planted: int
    found: int
    false_alarms: int
    others: int

    def cells(self) -> list[str]:
        """The row of the table."""
        reported = self.found + self.false_alarms
        precision = f"{self.found / reported:.0%}" if reported else "-"
        recall = f"{self.found / self.planted:.0%}" if self.planted else "-"
        counts = f"{self.found} of {self.planted}", f"{self.false_alarms} of {self.others}"
        return [self.kind, self.fault, counts[0], recall, counts[1], precision]


def main() -> None:
    """Plant the faults, count what is found, print a table."""
    arguments = argument_parser("photo_faults", __doc__, small="one photograph, to check that it runs").parse_args()
    extent = SMALL if arguments.small else FULL
    photographs = [photograph(name) for name in extent.photographs]
    with tempfile.TemporaryDirectory(prefix="flux-lora-bench-") as folder:
        inspect = _inspection_in(Path(folder))
        rows = [
            *_blur_rows(photographs, extent, inspect),
            *_copy_rows(photographs, extent, inspect),
            *_tone_rows(photographs, inspect),
        ]
    path = write_results(
        {"photographs": extent.photographs, "rows": [asdict(row) for row in rows]},
        name="photo_faults",
        output=arguments.output,
    )
    titles = ("kind", "planted fault", "found", "recall", "false alarms", "precision")
    print(table(titles, [row.cells() for row in rows]))
    print(f"wrote {path}")


def _inspection_in(folder: Path) -> Inspect:
    inspector = Inspector((1024,), None, crops=1)

    def inspect(image: Image.Image) -> Inspection:
        image.save(folder / "image.bmp")
        return inspector.inspect(folder / "image.bmp")

    return inspect


def _blur_rows(photographs: Sequence[Image.Image], extent: Extent, inspect: Inspect) -> list[Row]:
    rows = []
    for noise in extent.noises:
        alarms = sum(_is_blurred(inspect(blurred(image, 0, noise))) for image in photographs)
        for radius in extent.blurs:
            found = sum(_is_blurred(inspect(blurred(image, radius, noise))) for image in photographs)
            fault = f"{radius:g} px" + (f", then noise of {noise:g}" if noise else "")
            rows.append(Row("blur", fault, len(photographs), found, alarms, len(photographs)))
    for share in FOCUSED_SHARES:
        alarms = sum(_is_blurred(inspect(focused(image, share=share))) for image in photographs)
        rows.append(Row("blur", f"none: {share:.0%} of the area in focus", 0, 0, alarms, len(photographs)))
    return rows


def _is_blurred(inspection: Inspection) -> bool:
    return inspection.blur is not None and inspection.blur > BLURRED


def _copy_rows(photographs: Sequence[Image.Image], extent: Extent, inspect: Inspect) -> list[Row]:
    """For each kind of copy, a set of the photographs and their copies."""
    count, rows = len(photographs), []
    originals = [inspect(image).thumbnail for image in photographs]
    for fault in extent.copies:
        copies = [inspect(COPIES[fault](image)).thumbnail for image in photographs]
        groups = near_duplicates([*originals, *copies])
        found = sum({index % count for index in group} == {group[0]} for group in groups)
        rows.append(Row("near-duplicate", fault, count, found, len(groups) - found, count * (count - 1) // 2))
    return rows


def _tone_rows(photographs: Sequence[Image.Image], inspect: Inspect) -> list[Row]:
    count = len(photographs)
    alarms = sum(inspect(image).tones.fault() is not None for image in photographs)
    faults = [inspect(image).tones.fault() for image in EMPTY.values()]
    empty = sum(fault not in (None, FADED_TONES) for fault in faults)
    rows = [Row("one color", ", ".join(EMPTY), len(EMPTY), empty, alarms, count)]
    for fault, change in FADED.items():
        found = sum(inspect(change(image)).tones.fault() == FADED_TONES for image in photographs)
        rows.append(Row("faded", fault, count, found, alarms, count))
    return rows


if __name__ == "__main__":
    main()
