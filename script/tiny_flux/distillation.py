"""Guidance distillation: the guidance input gets its meaning, as that of FLUX.1-dev did (Meng et al. 2022, arXiv
2210.03142).

A frozen copy of the base is the teacher: its answers with and without the prompt, extrapolated. LoRAs for practice are
trained on the teacher and applied to both, so that guidance sharpens what a LoRA teaches too. Guidance 1, where LoRAs
are trained, stays the base's plain answer.
"""

import copy
import random

import torch
from torch import Tensor, nn

from lora.flux.prompt import Prompt
from lora.training.learning.flow import flow_losses
from lora.training.learning.losses import TRAINING_GUIDANCE
from script.tiny_flux.objective import NoisyBatch, Predictor, flow_loss, predictor_of

GUIDANCE = (1.0, 5.0)  # drawn evenly
GUIDED_FROM = 0.2  # sigma; below, a picture is only refined, and the target is the teacher's plain answer
PLAIN = 0.3  # share of the steps at guidance 1, against the data


class GuidanceDistillation:
    """Trains the transformer of a student; its text encoders stay as they are, and the teacher's are the same."""

    def __init__(self, student: Predictor) -> None:
        self.trained = student
        self.practised = _frozen_copy(student)
        student.model.clip.requires_grad_(False)
        student.model.t5.requires_grad_(False)

    def parameters_beside_matrices(self) -> list[nn.Parameter]:
        """Of the transformer."""
        matrices = set(self.trained.model.block_matrices())
        return [weight for weight in self.trained.model.transformer.parameters() if weight not in matrices]

    def loss(self, batch: NoisyBatch, rng: random.Random) -> Tensor:
        """Against the data at guidance 1, or against the guided teacher at any guidance."""
        if rng.random() < PLAIN:
            return flow_loss(self.trained, batch, guidance=TRAINING_GUIDANCE)
        guidance = rng.uniform(*GUIDANCE)
        prompt = self.trained.encode([sample.caption.text for sample in batch.samples])
        predicted = self.trained.velocity(batch, prompt, guidance=guidance)
        return flow_losses(predicted, self._target(batch, prompt, guidance)).mean()

    @torch.no_grad()
    def _target(self, batch: NoisyBatch, prompt: Prompt, guidance: float) -> Tensor:
        """v_u + guidance (v_c - v_u) for sigma > GUIDED_FROM, else v_c: [B, 16, H, W]."""
        empty = self.practised.encode([""] * len(batch.samples))
        conditional = self.practised.velocity(batch, prompt, guidance=TRAINING_GUIDANCE)
        unconditional = self.practised.velocity(batch, empty, guidance=TRAINING_GUIDANCE)
        guided = unconditional + guidance * (conditional - unconditional)
        return torch.where(batch.sigmas.view(-1, 1, 1, 1) > GUIDED_FROM, guided, conditional)


def _frozen_copy(predictor: Predictor) -> Predictor:
    """A copy that no optimizer changes; the matrices that LoRAs are trained on still pass gradients on."""
    model = copy.deepcopy(predictor.model).requires_grad_(False)
    for matrix in model.block_matrices():
        matrix.requires_grad_(True)
    return predictor_of(model, is_compiled=predictor.is_compiled)
