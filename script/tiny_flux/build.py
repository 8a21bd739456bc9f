"""Rebuild `weights/tiny-flux` from nothing, seeded; then generate with it and report how well it follows prompts.

Run as `script/build-tiny-flux`. It needs nothing but this repository, and uses a GPU if there is one. Its state is
saved every few minutes: stopped, or after `--minutes`, the same command goes on from there.
"""

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from lora.training.recipe.sigmas import Shift
from script.tiny_flux.autoencoder import AutoencoderTrainer
from script.tiny_flux.courses import Curriculum
from script.tiny_flux.distillation import GuidanceDistillation
from script.tiny_flux.networks import TinyFlux
from script.tiny_flux.objective import FlowMatching, predictor_of
from script.tiny_flux.pictures import PictureStore
from script.tiny_flux.plan import TINY_FLUX, Plan
from script.tiny_flux.report import report
from script.tiny_flux.saving import flux_scheduler, save_base
from script.tiny_flux.sitting import Sitting, SittingOverError, TimedSitting, train_stage
from script.tiny_flux.state import StateFolder
from script.tiny_flux.tokenizers import build_tokenizers
from script.tiny_flux.transformer import Material, Objective, Term, TransformerTrainer
from weights.bases import WEIGHTS

STATE = Path("~/.cache/flux-lora/tiny-flux-build")


def main() -> None:
    """Build, save, report."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    build = Build(
        TINY_FLUX, folder=StateFolder(arguments.state), sitting=TimedSitting(arguments.minutes), device=device
    )
    try:
        build.run(into=arguments.into)
    except SittingOverError:
        print(f"The sitting is over. The state is in {arguments.state}; the same command goes on from there.")
    else:
        print(report(arguments.into))


class Build:
    """A plan, the state that it has reached, and the sitting that takes it on."""

    def __init__(self, plan: Plan, *, folder: StateFolder, sitting: Sitting, device: torch.device) -> None:
        self._plan, self._folder, self._sitting, self._device = plan, folder, sitting, device

    def run(self, *, into: Path) -> None:
        """All stages, each from where it was left, then the pipeline."""
        vae = self._autoencoder()
        model = self._transformer(vae)
        save_base(vae, model, into=into)

    def _autoencoder(self) -> AutoencoderKL:
        trainer = AutoencoderTrainer(self._plan.autoencoder, measured=self._plan.measured, device=self._device)
        train_stage("autoencoder", trainer, folder=self._folder, sitting=self._sitting)
        return trainer.finished()

    def _transformer(self, vae: AutoencoderKL) -> TinyFlux:
        """The terms, then the distillation."""
        material = self._material(vae)
        torch.manual_seed(self._plan.seed)
        model = TinyFlux(build_tokenizers()).to(self._device)
        predictor = predictor_of(model, is_compiled=self._plan.is_compiled)
        for number, term in enumerate(self._plan.terms, start=1):
            self._term(f"term-{number}", term, FlowMatching(predictor), material)
        self._term("distillation", self._plan.distillation, GuidanceDistillation(predictor), material)
        return model.eval()

    def _material(self, vae: AutoencoderKL) -> Material:
        """All pictures, drawn and encoded by the first sitting that gets here."""
        store = PictureStore(vae, folder=self._folder, sitting=self._sitting, seed=self._plan.seed)
        curriculum = Curriculum(self._plan.courses, store)
        return Material(curriculum, vae, Shift.of(flux_scheduler()), self._plan.measured)

    def _term(self, name: str, term: Term, objective: Objective, material: Material) -> None:
        """At its end the model has its averaged weights."""
        trainer = TransformerTrainer(term, objective, material)
        train_stage(name, trainer, folder=self._folder, sitting=self._sitting)
        trainer.finish()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, default=WEIGHTS / "tiny-flux", help="where to write the model")
    parser.add_argument("--state", type=Path, default=STATE.expanduser(), help="where to keep the state of the build")
    parser.add_argument("--minutes", type=float, help="how long to work now; without it, to the end")
    parser.add_argument("--threads", type=int, default=2, help="how many threads compute, where there is no GPU")
    return parser.parse_args()


if __name__ == "__main__":
    main()
