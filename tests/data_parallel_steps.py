"""Training steps on a small transformer, in a single process or in one of several.

The processes of a data-parallel training write their results to files.
"""

from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed

from lora.training.learning.data_parallel import DataParallel, SingleProcess
from lora.training.learning.loop import take_step
from lora.training.learning.state import TrainingState
from lora.training.stop import Stop, Termination
from tests.lora.training.trainers import a_log
from tests.random_models import MODELS, RandomModel
from tests.tiny import a_recipe, lora_parameters, randomize_lora, recorded_calls

STEPS, EXAMPLES = 3, 3  # so that one of two processes has an empty part in every second step


def run_rank(family: str, size: int, rank: int, batch_size: int, share: float, rendezvous: Path, into: Path) -> None:
    """Take steps as one of `size` processes on the small model of a family, and save gradients, inputs of the model,
    losses and LoRA to a file."""
    torch.distributed.init_process_group("gloo", init_method=rendezvous.as_uri(), rank=rank, world_size=size)
    process_group = DataParallel(rank=rank, size=size, batch_size=batch_size)
    torch.save(take_steps(MODELS[family], process_group, batch_size * size, share), into)
    torch.distributed.destroy_process_group()


def take_steps(
    model: RandomModel, process_group: SingleProcess, global_batch_size: int, share: float
) -> dict[str, object]:
    """Take steps with batches of `global_batch_size` samples over all processes. A share of the steps preserves."""
    transformer = model.lora_transformer(rank=2)
    recipe = a_recipe(batch_size=global_batch_size, steps=STEPS, lora_rank=2, preservation=share)
    randomize_lora(transformer)
    state, batches = (
        TrainingState(transformer, recipe),
        model.batches(recipe, model.dataset_with_a_mask(0.1, count=EXAMPLES)),
    )
    of_one_process, size = replace(recipe, batch_size=global_batch_size // process_group.size), process_group.size
    preservation = model.preservation(transformer, of_one_process, processes=size)
    stop = Stop(a_log(), Termination(), minutes=None)
    assert preservation.generate(process_group, steps=range(STEPS), stop=stop)
    gradients: list[torch.Tensor] = []
    state.optimizer.register_step_pre_hook(
        lambda *_: gradients.append(torch.cat([each.grad.flatten() for each in state.parameters]))
    )
    model_inputs, steps = [], []
    for _ in range(STEPS):
        with recorded_calls(transformer) as calls:
            steps.append(
                take_step(transformer, state, batches, recipe, process_group=process_group, preservation=preservation)
            )
        model_inputs.append([call["hidden_states"].detach().clone() for call in calls])
    lora = {name: each.detach() for name, each in lora_parameters(transformer).items()}
    losses = [(step.loss, step.preservation_loss) for step in steps]
    return {"gradients": gradients, "inputs": model_inputs, "losses": losses, "lora": lora}
