"""Train `weights/tiny-flux` from scratch with a fixed seed, then measure how well it follows prompts.

Run as `script/build-tiny-flux`. It needs only this repository, and uses a GPU if there is one. It saves its state every
few minutes. After `--minutes`, or if it was killed, run the same command again to continue.
"""

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from lora.training.recipe.sigmas import Shift
from script.tiny_flux.autoencoder import AutoencoderTrainer
from script.tiny_flux.build_run import Run, RunOverError, TimedRun, train_stage
from script.tiny_flux.courses import Curriculum
from script.tiny_flux.distillation import GuidanceDistillation
from script.tiny_flux.networks import TinyFlux
from script.tiny_flux.objective import FlowMatching, predictor_of
from script.tiny_flux.pictures import ImageStore
from script.tiny_flux.plan import TINY_FLUX, Plan
from script.tiny_flux.report import report
from script.tiny_flux.saving import flux_scheduler, save_base
from script.tiny_flux.state import StateFolder
from script.tiny_flux.tokenizers import build_tokenizers
from script.tiny_flux.transformer import Objective, Term, TrainingData, TransformerTrainer
from weights.bases import WEIGHTS

STATE = Path("~/.cache/flux-lora/tiny-flux-build")


def main() -> None:
    """Build the base, save it and print a report."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    build = Build(TINY_FLUX, folder=StateFolder(arguments.state), run=TimedRun(arguments.minutes), device=device)
    try:
        build.run(into=arguments.into)
    except RunOverError:
        print(f"The minutes are over. The state is in {arguments.state}; run the same command again to continue.")
    else:
        print(report(arguments.into))


class Build:
    """Builds a base by a plan, from the state in a folder, within one run of the build."""

    def __init__(self, plan: Plan, *, folder: StateFolder, run: Run, device: torch.device) -> None:
        self._plan, self._folder, self._run, self._device = plan, folder, run, device

    def run(self, *, into: Path) -> None:
        """Continue each stage from its saved state, then write the pipeline to a folder."""
        vae = self._autoencoder()
        model = self._transformer(vae)
        save_base(vae, model, into=into)

    def _autoencoder(self) -> AutoencoderKL:
        trainer = AutoencoderTrainer(self._plan.autoencoder, measured=self._plan.measured, device=self._device)
        train_stage("autoencoder", trainer, folder=self._folder, run=self._run)
        return trainer.finished()

    def _transformer(self, vae: AutoencoderKL) -> TinyFlux:
        """Train the transformer by all terms, then distill it."""
        data = self._training_data(vae)
        torch.manual_seed(self._plan.seed)
        model = TinyFlux(build_tokenizers()).to(self._device)
        predictor = predictor_of(model, is_compiled=self._plan.is_compiled)
        for number, term in enumerate(self._plan.terms, start=1):
            self._term(f"term-{number}", term, FlowMatching(predictor), data)
        self._term("distillation", self._plan.distillation, GuidanceDistillation(predictor), data)
        return model.eval()

    def _training_data(self, vae: AutoencoderKL) -> TrainingData:
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
    parser.add_argument("--into", type=Path, default=WEIGHTS / "tiny-flux", help="where to write the model")
    parser.add_argument("--state", type=Path, default=STATE.expanduser(), help="where to keep the state of the build")
    parser.add_argument("--minutes", type=float, help="how long to run now (default: to the end)")
    parser.add_argument("--threads", type=int, default=2, help="number of CPU threads (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
