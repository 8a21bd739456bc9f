"""The settings of a build, and those of the committed base. Tests use much smaller ones."""

from dataclasses import dataclass

from script.tiny_flux.autoencoder import AutoencoderSettings
from script.tiny_flux.autoencoder_pool import Crops
from script.tiny_flux.courses import Course, Courses
from script.tiny_flux.pictures import Size
from script.tiny_flux.rehearsal import Practice
from script.tiny_flux.transformer import Term


@dataclass(frozen=True, slots=True)
class Plan:
    """Every setting of a build."""

    seed: int
    autoencoder: AutoencoderSettings
    courses: Courses
    terms: tuple[Term, ...]
    distillation: Term | None  # of guidance, for a base that has it as an input
    measured: int  # number of held-out images of each kind for the measures that are printed at each save
    is_compiled: bool  # the transformer; the autoencoder is never compiled


SEED = 0
# With a LoRA applied in most steps, and longer trainings of LoRAs, the base forgets its world: its loss on held-out
# scenes was 0.15 instead of 0.10 after 570 steps.
OCCASIONAL = Practice(lesson=(40, 300), pace=1, rest=0.7)
FREQUENT = Practice(lesson=(40, 300), pace=2, rest=0.5)  # a higher pace, so that a short term has many LoRAs

TINY_FLUX = Plan(
    seed=SEED,
    autoencoder=AutoencoderSettings(
        widths=(32, 64, 96, 96),
        steps=9_000,
        rate=1e-3,
        pool=6_000,
        crops=(Crops(32, 24), Crops(64, 8), Crops(128, 2)),
        seed=SEED,
    ),
    courses=Courses(
        small=Course(Size(64, 64), pictures=3_000, batch=48),
        full=Course(Size(128, 128), pictures=7_000, batch=32, practised=8),
        wide=Course(Size(160, 112), pictures=1_000, batch=24),
        tall=Course(Size(112, 160), pictures=1_000, batch=24),
    ),
    terms=(
        Term(steps=3_000, rate=1.0, decay=0.0, small=0.4, practice=None, seed=1),
        Term(steps=2_000, rate=1.0, decay=0.6, small=0.0, practice=OCCASIONAL, seed=2),
        Term(steps=5_000, rate=0.8, decay=0.6, small=0.0, practice=OCCASIONAL, seed=4),
    ),
    distillation=Term(steps=800, rate=1.0, decay=0.6, small=0.0, practice=FREQUENT, seed=3),
    measured=15,
    is_compiled=True,
)

TINY_FLUX2 = Plan(
    seed=SEED,
    autoencoder=AutoencoderSettings(
        widths=(32, 64, 96, 96),  # those of tiny-flux, whose weights it starts from
        steps=3_000,
        rate=5e-4,
        pool=6_000,
        crops=(Crops(32, 24), Crops(64, 8), Crops(128, 2)),
        seed=SEED,
    ),
    courses=Courses(
        small=Course(Size(64, 64), pictures=3_000, batch=32),
        full=Course(Size(128, 128), pictures=7_000, batch=24, practised=6),
        wide=Course(Size(160, 112), pictures=1_000, batch=16),
        tall=Course(Size(112, 160), pictures=1_000, batch=16),
    ),
    terms=(
        Term(steps=3_000, rate=1.0, decay=0.0, small=1 / 3, practice=None, seed=1),
        Term(steps=1_500, rate=1.0, decay=0.7, small=0.0, practice=OCCASIONAL, seed=2),
        Term(steps=1_400, rate=1.0, decay=0.7, small=0.0, practice=OCCASIONAL, seed=3),
    ),
    distillation=None,
    measured=15,
    is_compiled=True,
)
