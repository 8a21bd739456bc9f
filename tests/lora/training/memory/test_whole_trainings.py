"""The predicted peak of a whole training is within a tenth of what it takes; measured on a CPU, on the embedded bases.

Without samples, whose VAE is far smaller here than the one that is counted, and without what is only estimated for
libraries and fragmentation, as tensors alone are measured.
"""

from functools import partial

import pytest

from lora.engine.lora_layers import lora_layers
from lora.training.memory.prediction import WORKSPACE, MemoryPrediction
from lora.training.memory.weights import MemoryConfiguration
from tests.families import of_each_family
from tests.lora.training.memory.measured import Alive, bytes_of, requirements_of, tensors_of, with_lora
from tests.lora.training.trainers import a_training, run
from tests.random_models import RandomModel
from tests.tiny import a_recipe, lora_parameters

SIDE, TEXT = 12, 32  # tokens
RANK = 4
ADAMW_BYTES = 8  # of optimizer state per parameter
WITHIN = 0.1


class LoadedModel(RandomModel):
    """One whose transformer has its LoRA."""

    def lora_transformer(self, *, rank):
        assert rank == RANK
        return self.transformer()


def measured_bytes(tiny, transformer, recipe, folder):
    """The peak of a training: of what was there before it, and of what it allocates."""
    frozen = [each for each in tensors_of(transformer) if each is not None and not each.requires_grad]
    copies = [
        copy
        for layer in lora_layers(transformer)
        for copy in (getattr(layer, "down", None), getattr(layer, "up", None))
    ]
    before, alive = bytes_of([*frozen, *copies]), Alive()
    example = partial(tiny.example, side=SIDE, text=TEXT)
    model = LoadedModel(family=tiny.family, base=tiny.folder, transformer=lambda: transformer, example=example)
    with alive:
        run(a_training(folder, recipe, model=model))
    return before + alive.most


@of_each_family
@pytest.mark.parametrize(
    ("precision", "engine", "recomputed", "whole", "batch_size"),
    [
        ("fp32", "fast", "nothing", 0, 2),
        ("fp32", "fast", "gelu", 2, 1),
        ("fp32", "plain", "blocks", 0, 1),
        ("bf16", "fast", "nothing", 0, 1),
        ("int8", "fast", "nothing", 0, 1),
    ],
)
def test_a_training_takes_what_is_predicted(tmp_path, tiny, precision, engine, recomputed, whole, batch_size):
    transformer = with_lora(tiny.folder, precision, engine, recomputed, whole=whole)
    parameters = sum(each.numel() for each in lora_parameters(transformer).values())
    requirements = requirements_of(
        transformer,
        batch_size=batch_size,
        image_tokens=SIDE**2,
        text_tokens=TEXT,
        lora_parameters=parameters,
        optimizer_bytes=ADAMW_BYTES,
    )
    configuration = MemoryConfiguration(precision, recomputed, modulation_on_host=False, whole_blocks=whole)
    predicted = MemoryPrediction(requirements, False, engine).running_bytes(configuration) - WORKSPACE
    recipe = a_recipe(steps=2, batch_size=batch_size, lora_rank=RANK, optimizer="adamw")
    assert predicted == pytest.approx(measured_bytes(tiny, transformer, recipe, tmp_path), rel=WITHIN)
