"""The inputs that only the public trainer has, ostris/flux-dev-lora-trainer (train.py of replicate/flux-fine-tuner).

Cog drops an input that a signature lacks, and the job succeeds without its effect. So each of them is declared here,
and works, is noted in the log, or is refused before anything starts. Clients send defaults too, so these are accepted.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lora.checks import check_bool, check_secret, check_text, check_whole, short_repr
from lora.publishing.hub import check_repository
from lora.reporting.trackers.wandb_run import WandbTarget

LONGEST_REFERENCE = 150 * 2**20  # characters: it may be a data URI as large as a request to Cog

Check = Callable[[str, Any], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicTrainerInputs:
    """These inputs, checked; text that was not given is empty."""

    skip_training_and_use_pretrained_hf_lora_url: str  # any reference to a LoRA, which is returned without a training
    autocaption: bool  # whether a captioner describes images without a caption, if one is installed
    hf_repo_id: str  # owner/name
    hf_token: str = field(repr=False)
    hf_private: bool
    wandb_api_key: str = field(repr=False)
    wandb_project: str
    wandb_run: str
    wandb_entity: str
    wandb_sample_interval: int  # steps
    wandb_sample_prompts: tuple[str, ...] | None
    wandb_save_interval: int  # steps

    def samples(self, sample_prompts: tuple[str, ...] | None) -> Mapping[str, object]:
        """The values of `sample_prompts` and `sample_every` that these inputs set; none if the public trainer would
        not generate samples, which it only does with a key for Weights & Biases.

        `sample_prompts` are the prompts of our own input. Raises ValueError with one sentence if they differ.
        """
        if not (self.wandb_sample_prompts and self.wandb_api_key):
            return {}
        if sample_prompts and sample_prompts != self.wandb_sample_prompts:
            raise ValueError(
                "sample_prompts and wandb_sample_prompts are both given and differ: expected only one of them, because"
                " they are two names of one input"
            )
        return {"sample_prompts": self.wandb_sample_prompts, "sample_every": self.wandb_sample_interval}

    def wandb_target(self) -> WandbTarget:
        """Where a run of Weights & Biases goes."""
        return WandbTarget(
            self.wandb_api_key or None, self.wandb_project, self.wandb_entity or None, self.wandb_run or None
        )

    def notes(self) -> Iterator[str]:
        """Yield one sentence for the log for each input that has less effect than it seems to."""
        if self.wandb_sample_prompts and not self.wandb_api_key:
            yield (
                "wandb_sample_prompts has no effect without wandb_api_key, as in the public trainer; sample_prompts"
                " needs no key"
            )
        if self.hf_token and not (self.hf_repo_id or self.skip_training_and_use_pretrained_hf_lora_url):
            yield "hf_token has no effect without hf_repo_id, as in the public trainer"


def _text(at_most: int) -> Check:
    return lambda name, value: check_text(name, "" if value is None else value, at_most=at_most).strip()


def _steps_between(name: str, value: object) -> int:
    """Check an interval. The public trainer has no upper bound: one beyond the number of steps means never."""
    steps = check_whole(name, value)
    if steps < 1:
        raise ValueError(f"{name} is {short_repr(value)}: expected 1 or more steps")
    return steps


def public_trainer_checks(prompts: Check) -> dict[str, Check]:
    """The check of each input by name; `prompts` is the check of our own `sample_prompts`."""
    return {
        "skip_training_and_use_pretrained_hf_lora_url": _text(LONGEST_REFERENCE),
        "autocaption": check_bool,
        "hf_repo_id": check_repository,
        "hf_token": check_secret,
        "hf_private": check_bool,
        "wandb_api_key": check_secret,
        "wandb_project": _text(1000),
        "wandb_run": _text(1000),
        "wandb_entity": _text(1000),
        "wandb_sample_interval": _steps_between,
        "wandb_sample_prompts": prompts,
        "wandb_save_interval": _steps_between,
    }
