"""Run the stages of a run one after the other under a budget of seconds. Whatever happens to one, it is recorded, and
the next follows."""

import sys
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType

from bench.records import Record, RecordFile
from lora.base.device import free_memory

END = "stage"  # the kind of the record that each stage ends with
DONE, FAILED, SKIPPED = "done", "failed", "skipped"
LONGEST_ERROR = 500  # characters


@dataclass(frozen=True, slots=True)
class Result:
    """A result of a stage. Values can be written as JSON."""

    kind: str
    values: dict[str, object]


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the run."""

    name: str
    like: str  # stages of the same kind take about as long as each other
    estimate: float  # seconds, which count until a stage of its kind has been measured
    measure: Callable[[], Iterable[Result]]
    is_essential: bool = False  # earlier stages that are not leave enough time for it


class Budget:
    """The seconds that a run may take, and what its stages took."""

    def __init__(self, seconds: float, *, since: float) -> None:
        """`since` is the start of the run, in seconds since 1970."""
        self._end = since + seconds
        self._took: dict[str, float] = {}

    @property
    def left(self) -> float:
        """The seconds that are left."""
        return self._end - time.time()

    def expected(self, stage: Stage) -> float:
        """The seconds that a stage will take: the most that one of its kind took, else its estimate."""
        return self._took.get(stage.like, stage.estimate)

    def note(self, stage: Stage, seconds: float) -> None:
        """Remember what a complete stage took."""
        self._took[stage.like] = max(seconds, self._took.get(stage.like, 0.0))

    def refusal(self, stage: Stage, later: Sequence[Stage]) -> str:
        """Why there is not enough time for a stage, or an empty text."""
        reserved = 0.0 if stage.is_essential else sum(self.expected(each) for each in later if each.is_essential)
        left, expected = self.left, self.expected(stage)
        if expected + reserved <= left:
            return ""
        others = f", of which {reserved:.0f} s are for later stages that matter more" if reserved else ""
        return f"it takes about {expected:.0f} s, and {max(left, 0):.0f} s are left{others}"


def run_stages(
    stages: Sequence[Stage], file: RecordFile, budget: Budget, *, after_each: Callable[[], object] = lambda: None
) -> None:
    """Run all stages for which there is time. Every result is in the file before the next measurement begins, and each
    stage's last record tells whether it is complete."""
    for number, stage in enumerate(stages):
        refusal = budget.refusal(stage, stages[number + 1 :])
        if refusal:
            file.append(Record(stage.name, END, {"outcome": SKIPPED, "reason": refusal}))
        else:
            print(f"{stage.name} ... ({budget.left:.0f} s left)", file=sys.stderr)
            file.append(Record(stage.name, END, _run(stage, file, budget)))
            free_memory()
        after_each()


def _run(stage: Stage, file: RecordFile, budget: Budget) -> dict[str, object]:
    began = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught, _SurvivedError() as survived:
        warnings.simplefilter("default")
        for result in stage.measure():
            file.append(Record(stage.name, result.kind, result.values))
    seconds = time.perf_counter() - began
    if not survived.reason:
        budget.note(stage, seconds)
    outcome = FAILED if survived.reason else DONE
    texts = [str(each.message).split("\n")[0][:LONGEST_ERROR] for each in caught]
    return {
        **{"outcome": outcome, "reason": survived.reason, "seconds": seconds},
        "warnings": list(dict.fromkeys(texts)),  # a block that is not compiled is known by one of them
    }


class _SurvivedError(AbstractContextManager["_SurvivedError"]):
    """Ends an error, whatever it is, but for an interruption, and keeps its type and its first line.

    Elsewhere in this project errors are caught by their names only. Here a stage that fails in a way nobody thought of
    must not cost the results of the others: nobody can repeat the run at once.
    """

    reason = ""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        first_line = (str(error).strip().splitlines() or [""])[0]
        self.reason = f"{type(error).__name__}: {first_line}"[:LONGEST_ERROR]
        return True
