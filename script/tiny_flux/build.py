"""Train an embedded base with a fixed seed, then measure how well it follows prompts.

Run as `script/build-tiny-flux`. It needs only this repository, and uses a GPU if there is one. It saves its state every
few minutes. After `--minutes`, or if it was killed, run the same command again to continue.
"""

import argparse
from pathlib import Path

import torch

from lora.training.recipe.sigmas import Shift
from script.tiny_flux.autoencoder import AutoencoderTrainer
from script.tiny_flux.bases import BASES, Base
from script.tiny_flux.build_run import Run, RunOverError, TimedRun, train_stage
from script.tiny_flux.courses import Curriculum
from script.tiny_flux.distillation import GuidanceDistillation
from script.tiny_flux.family import Networks
from script.tiny_flux.latents import Autoencoder
from script.tiny_flux.objective import FlowMatching, predictor_of
from script.tiny_flux.pictures import ImageStore
from script.tiny_flux.saving import flux_scheduler, save_base
from script.tiny_flux.state import StateFolder
from script.tiny_flux.transformer import Objective, Term, TrainingData, TransformerTrainer
from weights.bases import WEIGHTS

STATES = Path("~/.cache/flux-lora")


def main() -> None:
    """Build the base, save it and print a report."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    base = BASES[arguments.base]
    state = arguments.state or STATES.expanduser() / f"{arguments.base}-build"
    into = arguments.into or WEIGHTS / arguments.base
    build = Build(base, folder=StateFolder(state), run=TimedRun(arguments.minutes), device=device)
    try:
        build.run(into=into)
    except RunOverError:
        print(f"The minutes are over. The state is in {state}; run the same command again to continue.")
    else:
        print(base.family.report(into))


class Build:
    """Builds a base by its plan, from the state in a folder, within one run of the build."""

    def __init__(self, base: Base, *, folder: StateFolder, run: Run, device: torch.device) -> None:
        self._family, self._plan = base.family, base.plan
        self._folder, self._run, self._device = folder, run, device

    def run(self, *, into: Path) -> None:
        """Continue each stage from its saved state, then write the pipeline to a folder."""
        vae = self._autoencoder()
        model = self._transformer(vae)
        save_base(self._family.pipeline(vae, model), into=into)

    def _autoencoder(self) -> Autoencoder:
        trainer = AutoencoderTrainer(
            self._plan.autoencoder,
            self._family.untrained_autoencoder(self._plan.autoencoder),
            kl_weight=self._family.kl_weight,
            measured=self._plan.measured,
            device=self._device,
        )
        train_stage("autoencoder", trainer, folder=self._folder, run=self._run)
        vae = trainer.finished()
        with torch.no_grad():
            self._family.set_statistics(vae, trainer.measured_images())
        return vae

    def _transformer(self, vae: Autoencoder) -> Networks:
        """Train the transformer by all terms, then distill it if the plan says so."""
        data = self._training_data(vae)
        torch.manual_seed(self._plan.seed)
        model = self._family.untrained_networks().to(self._device)
        predictor = predictor_of(model, is_compiled=self._plan.is_compiled)
        for number, term in enumerate(self._plan.terms, start=1):
            self._term(f"term-{number}", term, FlowMatching(predictor), data)
        if self._plan.distillation:
            self._term("distillation", self._plan.distillation, GuidanceDistillation(predictor), data)
        return model.eval()

    def _training_data(self, vae: Autoencoder) -> TrainingData:
        """Load all images; those without a file are rendered and encoded first."""
        store = ImageStore(vae, folder=self._folder, run=self._run, seed=self._plan.seed)
        curriculum = Curriculum(self._plan.courses, store)
        return TrainingData(curriculum, vae, Shift.of(flux_scheduler()), self._plan.measured)

    def _term(self, name: str, term: Term, objective: Objective, data: TrainingData) -> None:
        """Train for one term and load the averaged weights into the model."""
        trainer = TransformerTrainer(term, objective, data)
        train_stage(name, trainer, folder=self._folder, run=self._run)
        trainer.finish()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", choices=BASES, default="tiny-flux", help="what to build (default: %(default)s)")
    parser.add_argument("--into", type=Path, help="where to write the model (default: its folder in weights/)")
    parser.add_argument("--state", type=Path, help=f"where to keep the state of the build (default: in {STATES})")
    parser.add_argument("--minutes", type=float, help="how long to run now (default: to the end)")
    parser.add_argument("--threads", type=int, default=2, help="number of CPU threads (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
