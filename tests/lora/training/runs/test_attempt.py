"""An attempt at a training computes as its plan says, and gives the same LoRA with either engine."""

import torch
from diffusers import FluxTransformer2DModel

from lora.base.prompt import Prompt
from lora.dataset.encoding import EncodedDataset, Example
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
from tests.lora.training.trainers import a_log
from tests.tiny import TINY_FLUX, a_recipe


def an_example(config, seed):
    """An example of the smallest size that the base accepts."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(4, config["joint_attention_dim"], generator=generator)
    pooled = torch.randn(config["pooled_projection_dim"], generator=generator)
    latents = torch.randn(config["in_channels"] // 4, 4, 4, generator=generator)
    return Example(latents, Prompt(tokens, pooled), content=str(seed))


def run(folder, engine, recomputed, streamed=0):
    config, log = transformer_config(TINY_FLUX), a_log()
    examples = tuple(an_example(config, seed) for seed in range(2))
    job = Job(
        recipe=a_recipe(steps=2),
        base=TINY_FLUX,
        layers=tuple(block_layers(config, FluxTransformer2DModel)),
        is_validated=False,
        checkpoint_every=1000,
        samples=SampleSettings((), 64, 0, 1, 3.5),
        neutral_side=64,
        samples_folder=folder / "samples",
        page=None,
    )
    configuration = MemoryConfiguration("fp32", recomputed, modulation_on_host=streamed > 0, streamed_blocks=streamed)
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


def test_streamed_blocks_give_the_same_lora_bit_for_bit(tmp_path):
    expected, found = (run(tmp_path, "fast", "blocks", streamed) for streamed in (0, 4))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def _is_fast(trainer):
    return any(isinstance(each, FusedLoraLinear) for each in trainer._transformer.modules())
