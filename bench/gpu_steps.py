"""The stages of a run on a GPU machine that train: the reference, each arm at each size, and a profile of one."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial

from bench.preserved_steps import PreservingLoop
from bench.profiling import profile_steps
from bench.random_flux import Sizes
from bench.requirements import predicted_bytes
from bench.shared_models import SharedModels
from bench.stages import Result, Stage
from bench.step_arms import ARMS, BASELINE, PRESERVING, STREAMED, Arm, TrainingSetup
from bench.step_proofs import LossAndGradients, compare, compute_reference, loss_and_gradients
from bench.train_step import Extent, inputs_of, measure_size
from lora.base.device import device

STEP, DEVIATION, PROFILE, REFERENCE, PRESERVATION = "step", "deviation", "profile", "reference", "preservation"
OURS = "ours bf16"  # the arm that is profiled
WARM_UPS_OF_PROFILE = 2
# Seconds on an H100 or H200, estimated, not measured: compiling takes most of ours.
COMPILED, EAGER, BUILDING_FP32, PROFILING = 60, 30, 25, 15


class StepStages:
    """The stages, which share models and the reference."""

    def __init__(self, sizes: Sizes, extent: Extent, *, profiled_steps: int) -> None:
        self._sizes, self._extent, self._profiled_steps = sizes, extent, profiled_steps
        self._models = SharedModels(sizes)
        self._reference: LossAndGradients | None = None

    def stages(self) -> list[Stage]:
        """In the order in which they answer questions, but that arms of one model follow one another. The usual loop,
        to which all ratios refer, is sure to get its time."""
        by_name = {arm.name: arm for arm in ARMS}
        ours = by_name[OURS]
        others = (
            *(PRESERVING.name, "ours bf16, recomputing", BASELINE.name, "script", "ours int8"),
            *("ours int8, recomputing", "ours int8, bf16 matmul", "ours nf4, recomputing"),
        )
        return [
            Stage("reference in fp32", "reference", BUILDING_FP32, self._measure_reference, is_essential=True),
            self._stage(ours),
            Stage(f"profile of {ours.name}", "profile", PROFILING, partial(self._profile, ours)),
            *(self._stage(by_name[name]) for name in others if by_name[name].is_ours or self._sizes.has_script),
            self._stage(STREAMED),
        ]

    def release(self) -> None:
        """Free the last arm's model."""
        self._models.release()

    def _stage(self, arm: Arm) -> Stage:
        like, estimate = ("ours", COMPILED) if arm.is_ours else ("script", EAGER)
        is_essential = arm.name in (BASELINE.name, OURS)
        return Stage(arm.name, like, estimate, partial(self._measure_arm, arm), is_essential)

    def _measure_reference(self) -> Iterator[Result]:
        self.release()
        self._reference = compute_reference(self._sizes, inputs_of(self._sizes, self._extent, self._first_side))
        yield Result(REFERENCE, {"loss": self._reference.loss, "norm": self._reference.gradients.norm().item()})

    def _measure_arm(self, arm: Arm) -> Iterator[Result]:
        with ExitStack() as after_error:
            after_error.callback(self.release)  # a model that failed may be half changed
            setup = self._models.setup_for(arm)
            for side in self._extent.sides:
                measured = asdict(measure_size(arm, setup, self._sizes, side, self._extent))
                predicted = predicted_bytes(arm, self._sizes, side=side, batch_size=self._extent.batch_size)
                yield Result(STEP, {"measurement": measured, "predicted": predicted})
                if side == self._first_side:
                    yield from self._measure_neutral_images(setup)
                if side == self._first_side and arm.is_ours and self._reference is not None:
                    found = loss_and_gradients(setup.model, inputs_of(self._sizes, self._extent, side))
                    yield Result(DEVIATION, asdict(compare(arm, found, self._reference)))
            after_error.pop_all()

    def _measure_neutral_images(self, setup: TrainingSetup) -> Iterator[Result]:
        """With everything compiled, as many as most trainings ask for."""
        if isinstance(setup.loop, PreservingLoop):
            images, seconds = setup.loop.seconds_of_images(self._extent.most_rounds)
            share = setup.loop.usual_share
            yield Result(PRESERVATION, {"share": share, "images": images, "seconds": seconds})

    def _profile(self, arm: Arm) -> Iterator[Result]:
        setup, side = self._models.setup_for(arm), self._first_side
        setup.begin(inputs_of(self._sizes, self._extent, side))
        for _ in range(WARM_UPS_OF_PROFILE):
            setup.loop.step()
        found = profile_steps(setup.loop.step, device(), steps=self._profiled_steps)
        yield Result(PROFILE, {"arm": arm.name, "side": side, **asdict(found)})

    @property
    def _first_side(self) -> int:
        return self._extent.sides[0]
