"""Guidance distillation, as for FLUX.1-dev (Meng et al. 2022, arXiv 2210.03142).

The teacher is a frozen copy of the base. The target is classifier-free guidance: the teacher's predictions with and
without the prompt, extrapolated. Practice LoRAs are trained on the teacher and applied to teacher and student, so that
guidance works for what a LoRA has learned, too. At guidance 1, at which LoRAs are trained, the target is the data.
"""

import copy
import random

import torch
from torch import Tensor, nn

from lora.training.learning.flow_matching import flow_matching_losses
from lora.training.learning.losses import TRAINING_GUIDANCE
from script.tiny_flux.family import Text
from script.tiny_flux.objective import NoisyBatch, Predictor, flow_loss, predictor_of

GUIDANCE = (1.0, 5.0)  # sampled uniformly
GUIDED_FROM = 0.2  # sigma; below it only details change, and the target is the teacher's prediction without guidance
PLAIN = 0.3  # share of the steps at guidance 1, against the data


class GuidanceDistillation:
    """Trains the transformer of a student. Student and teacher have the same frozen text encoders."""

    def __init__(self, student: Predictor) -> None:
        self.trained = student
        self.lora_predictor = _frozen_copy(student)
        for encoder in student.model.text_encoders():
            encoder.requires_grad_(False)

    def parameters_beside_matrices(self) -> list[nn.Parameter]:
        """Return the transformer's parameters besides the matrices of its blocks."""
        matrices = set(self.trained.model.block_matrices())
        return [weight for weight in self.trained.model.transformer.parameters() if weight not in matrices]

    def loss(self, batch: NoisyBatch, rng: random.Random) -> Tensor:
        """Return the loss against the data at guidance 1, or against the teacher at a random guidance."""
        if rng.random() < PLAIN:
            return flow_loss(self.trained, batch, guidance=TRAINING_GUIDANCE)
        guidance = rng.uniform(*GUIDANCE)
        text = self.trained.encode([sample.caption.text for sample in batch.samples])
        predicted = self.trained.velocity(batch, text, guidance=guidance)
        return flow_matching_losses(predicted, self._target(batch, text, guidance)).mean()

    @torch.no_grad()
    def _target(self, batch: NoisyBatch, text: Text, guidance: float) -> Tensor:
        """Return v_u + guidance (v_c - v_u) for sigma > GUIDED_FROM, else v_c: [B, C, H, W]."""
        empty = self.lora_predictor.encode([""] * len(batch.samples))
        conditional = self.lora_predictor.velocity(batch, text, guidance=TRAINING_GUIDANCE)
        unconditional = self.lora_predictor.velocity(batch, empty, guidance=TRAINING_GUIDANCE)
        guided = unconditional + guidance * (conditional - unconditional)
        return torch.where(batch.sigmas.view(-1, 1, 1, 1) > GUIDED_FROM, guided, conditional)


def _frozen_copy(predictor: Predictor) -> Predictor:
    """Return a copy that no optimizer changes. Its block matrices require gradients, for the practice LoRAs."""
    model = copy.deepcopy(predictor.model).requires_grad_(False)
    for matrix in model.block_matrices():
        matrix.requires_grad_(True)
    return predictor_of(model, is_compiled=predictor.is_compiled)
