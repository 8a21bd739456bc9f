"""An attempt at a training computes as its plan says, and gives the same LoRA with either engine."""

import torch

from lora.dataset.encoding import EncodedDataset
from lora.engine.lora_layers import FusedLoraLinear
from lora.families.loading import transformer_config
from lora.training.checkpoints.resume import InitialState
from lora.training.checkpoints.store import CheckpointStore
from lora.training.learning.data_parallel import SingleProcess
from lora.training.memory.configurations import Plan
from lora.training.memory.host import HostMemory
from lora.training.memory.weights import MemoryConfiguration
from lora.training.recipe.layers import block_layers
from lora.training.recipe.samples import SampleSettings
from lora.training.runs import attempt as attempt_module
from lora.training.runs.attempt import Job, run_job
from lora.training.stop import Stop, Termination
from tests.families import FIRST, of_each_family
from tests.lora.training.trainers import a_log
from tests.tiny import a_recipe


def run(folder, engine, recomputed, streamed=0, *, tiny=FIRST):
    """The LoRA of two steps on examples of the smallest size that the base accepts."""
    kind, log = tiny.family.components.transformer, a_log()
    examples = tuple(tiny.example(seed=seed, side=2, text=4) for seed in range(2))
    job = Job(
        recipe=a_recipe(steps=2),
        base=tiny.folder,
        layers=tuple(block_layers(transformer_config(tiny.folder), kind)),
        is_validated=False,
        checkpoint_every=1000,
        samples=SampleSettings((), 64, 0, 1, 3.5),
        neutral_side=64,
        samples_folder=folder / "samples",
        page=None,
    )
    on_host = streamed > 0 and tiny.family.transformer.modulation is not None
    configuration = MemoryConfiguration("fp32", recomputed, modulation_on_host=on_host, streamed_blocks=streamed)
    plan = Plan(configuration, 6, "GELU", "together", engine, 0.0, 0.0, 0.0, HostMemory(0, 0, 0, 0), ())
    store = CheckpointStore(folder / engine / f"{recomputed}-{streamed}", {"of": "a test"}, report_damage=print)
    stop = Stop(log, Termination(), minutes=None)
    dataset = EncodedDataset(examples, examples[0].prompt)
    return run_job(
        job, dataset, plan, InitialState(None, None), store=store, process_group=SingleProcess(), log=log, stop=stop
    ).tensors


def test_both_engines_give_the_same_lora_whatever_is_recomputed(tmp_path, monkeypatch):
    fused = []
    original = attempt_module.Trainer.run
    monkeypatch.setattr(attempt_module.Trainer, "run", lambda self: fused.append(_is_fast(self)) or original(self))
    plain = run(tmp_path, "plain", "nothing")
    for recomputed in ("nothing", "gelu"):
        found = run(tmp_path, "fast", recomputed)
        assert found.keys() == plain.keys()
        for name, tensor in plain.items():
            torch.testing.assert_close(found[name], tensor, rtol=0.02, atol=1e-5)
    assert fused == [False, True, True]


@of_each_family
def test_streamed_blocks_give_the_same_lora_bit_for_bit(tmp_path, tiny):
    expected, found = (run(tmp_path, "fast", "blocks", streamed, tiny=tiny) for streamed in (0, 4))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def _is_fast(trainer):
    return any(isinstance(each, FusedLoraLinear) for each in trainer._transformer.modules())
