"""The tables of a run on a GPU machine, made from its file of results, anywhere."""

import statistics
from collections.abc import Iterator, Mapping, Sequence

from bench import gpu_images, rates, train_step
from bench.block_shapes import BlockShapes, block_shapes
from bench.gpu_images import IMAGES
from bench.gpu_steps import DEVIATION, OURS, PRESERVATION, PROFILE, STEP
from bench.random_flux import BASES, DEFAULT_BASE
from bench.rates import Rate
from bench.records import Record
from bench.report import table
from bench.stages import END
from bench.step_arms import PRESERVING
from bench.step_proofs import Deviation, as_lines
from bench.train_step import Measurement

MACHINE, BASE, RATE, CLOCK = "machine", "base", "rate", "clock"
GB = 1e9


def as_markdown(records: Sequence[Record]) -> str:
    """All tables for which there are results."""
    sections = (_machine, _stages, _rates, _deviations, _steps, _preservation, _memory, _profiles, _images)
    return "\n\n".join(text for section in sections if (text := section(records)))


def _of(records: Sequence[Record], kind: str) -> list[Record]:
    return [each for each in records if each.kind == kind]


def _machine(records: Sequence[Record]) -> str:
    return "\n".join(f"{name}: {value}" for each in _of(records, MACHINE) for name, value in each.values.items())


def _base(records: Sequence[Record]) -> str:
    """The base of a run; an older one does not say that it was the default."""
    return next((str(each.values[BASE]) for each in _of(records, MACHINE) if BASE in each.values), DEFAULT_BASE)


def _shapes(records: Sequence[Record]) -> BlockShapes:
    return block_shapes(BASES[_base(records)])


def _stages(records: Sequence[Record]) -> str:
    """Every stage and what became of it: a stage that is missing had not ended when the run did."""
    rows = []
    for each in _of(records, END):
        seconds = each.values.get("seconds")
        notes = "; ".join(filter(None, [each.values["reason"], *each.values.get("warnings", [])])).replace("|", "\\|")
        rows.append([each.stage, each.values["outcome"], f"{seconds:.1f}" if seconds is not None else "", notes])
    return table(["stage", "outcome", "seconds", "reason, warnings"], rows) if rows else ""


def _rates(records: Sequence[Record]) -> str:
    found = [Rate(**{**each.values, "size": tuple(each.values["size"])}) for each in _of(records, RATE)]
    clocks = [f"SM clock during the rates: {each.values['sm_mhz']} MHz" for each in _of(records, CLOCK)]
    return "\n\n".join([*clocks, rates.as_markdown(found, _shapes(records))]) if found else ""


def _deviations(records: Sequence[Record]) -> str:
    found = [Deviation(**each.values) for each in _of(records, DEVIATION)]
    return as_lines(found) if found else ""


def _steps(records: Sequence[Record]) -> str:
    found = [Measurement(**each.values["measurement"]) for each in _of(records, STEP)]
    flop = train_step.STEP_FLOP if _base(records) == train_step.DEV else {}
    return train_step.as_markdown(found, batch_size=1, step_flop=flop) if found else ""


def _preservation(records: Sequence[Record]) -> str:
    """What a step costs on average where a share of the steps preserves, and the images that are generated for it."""
    medians = {
        (found.arm, found.side): statistics.median(found.seconds)
        for found in (Measurement(**each.values["measurement"]) for each in _of(records, STEP))
    }
    return "\n\n".join(_preservation_lines(each, medians) for each in _of(records, PRESERVATION))


def _preservation_lines(record: Record, medians: Mapping[tuple[str, int], float]) -> str:
    share, images, seconds = (record.values[name] for name in ("share", "images", "seconds"))
    rows = []
    for (arm, side), preserving in medians.items():
        plain = medians.get((OURS, side))
        if arm == PRESERVING.name and plain is not None:
            average = (1 - share) * plain + share * preserving
            each = [f"{1000 * value:.0f} ms" for value in (plain, preserving, average)]
            rows.append([str(side), *each, f"{average / plain:.2f}"])
    titles = ["px", "plain step", "preserving step", f"average, {share:.0%} preserving", "times a plain step"]
    return "\n\n".join([table(titles, rows), f"{images} neutral images, when compiled: {seconds:.1f} s"])


def _memory(records: Sequence[Record]) -> str:
    rows = [list(_memory_row(each)) for each in _of(records, STEP)]
    titles = [
        "contender",
        "px",
        "predicted peak",
        "allocated",
        "reserved",
        "graphs compiled during timing",
        "first step",
    ]
    return table(titles, rows) if rows else ""


def _memory_row(record: Record) -> Iterator[str]:
    measured = Measurement(**record.values["measurement"])
    yield from (measured.arm, str(measured.side))
    for size in (record.values["predicted"], measured.peak_allocated, measured.peak_reserved):
        yield f"{size / GB:.2f} GB" if size is not None else ""
    yield from (str(measured.graphs), f"{measured.first_seconds:.1f} s")


def _profiles(records: Sequence[Record]) -> str:
    return "\n\n".join(_profile(each) for each in _of(records, PROFILE))


def _profile(record: Record) -> str:
    values = record.values
    head = (
        f"{values['arm']}, {values['side']} px, {values['steps']} steps under the profiler:"
        f" {1000 * values['seconds']:.1f} ms a step, the device busy {100 * values['busy']:.1f} % of it"
    )
    kernels = [_kernel_row(each) for each in values["kernels"]]
    gaps = [[f"{1e6 * each['seconds']:.0f} µs", _code(each["after"]), _code(each["before"])] for each in values["gaps"]]
    return "\n\n".join(
        [
            head,
            table(["kernel", "ms a step", "calls a step", "share of the time"], kernels),
            table(["longest gaps", "after", "before"], gaps),
        ]
    )


def _kernel_row(kernel: dict[str, float | str]) -> list[str]:
    seconds, share = float(kernel["seconds"]), float(kernel["share"])
    return [
        _code(str(kernel["name"])),
        f"{1000 * seconds:.2f}",
        f"{float(kernel['calls']):.0f}",
        f"{100 * share:.1f} %",
    ]


def _code(name: str) -> str:
    return f"`{name.replace('|', '/')}`"


def _images(records: Sequence[Record]) -> str:
    found = [dict(each.values) for each in _of(records, IMAGES)]
    return gpu_images.as_markdown(found) if found else ""
