"""Steps of a training on a small transformer, taken by one process or by one of several: run in processes of their own,
which leave in a file what they found."""

from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed

from lora.training.learning.data_parallel import DataParallel, SingleProcess
from lora.training.learning.loop import take_step
from lora.training.learning.state import TrainingState
from lora.training.stop import Stop, Termination
from tests.lora.training.trainers import a_log
from tests.tiny import (
    a_recipe,
    lora_parameters,
    randomize_lora,
    recorded_calls,
    tiny_batches,
    tiny_dataset,
    tiny_lora_transformer,
    tiny_preservation,
)

STEPS, EXAMPLES = 3, 3  # so that of two processes one has nothing to do in every second step


def run_rank(size: int, rank: int, batch_size: int, share: float, meeting: Path, into: Path) -> None:
    """Take steps as a process of a process_group of so many, and save gradients, what the model was asked, losses and LoRA."""
    torch.distributed.init_process_group("gloo", init_method=meeting.as_uri(), rank=rank, world_size=size)
    torch.save(take_steps(DataParallel(rank=rank, size=size, batch_size=batch_size), batch_size * size, share), into)
    torch.distributed.destroy_process_group()


def take_steps(process_group: SingleProcess, joined: int, share: float) -> dict[str, object]:
    """The same in a process that is alone, with whole batches of `joined` samples; a share of the steps preserves."""
    transformer = tiny_lora_transformer(rank=2)
    recipe = a_recipe(batch_size=joined, steps=STEPS, lora_rank=2, preservation=share)
    randomize_lora(transformer)
    state, batches = TrainingState(transformer, recipe), tiny_batches(recipe, tiny_dataset(EXAMPLES))
    preservation = tiny_preservation(transformer, replace(recipe, batch_size=joined // process_group.size))
    assert preservation.generate(process_group, stop=Stop(a_log(), Termination(), minutes=None))
    gradients: list[torch.Tensor] = []
    state.optimizer.register_step_pre_hook(
        lambda *_: gradients.append(torch.cat([each.grad.flatten() for each in state.parameters]))
    )
    asked, steps = [], []
    for _ in range(STEPS):
        with recorded_calls(transformer) as calls:
            steps.append(take_step(transformer, state, batches, recipe, process_group=process_group, preservation=preservation))
        asked.append([call["hidden_states"].detach().clone() for call in calls])
    lora = {name: each.detach() for name, each in lora_parameters(transformer).items()}
    losses = [(step.loss, step.preservation_loss) for step in steps]
    return {"gradients": gradients, "asked": asked, "losses": losses, "lora": lora}
