"""Practice LoRAs train like PEFT's, and the weights of the base are the same after they are removed."""

import copy

import pytest
import torch
from diffusers import AutoencoderKL
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from script.tiny_flux.pictures import Size
from script.tiny_flux.practice_lora import RANK, PracticeLora
from script.tiny_flux.rehearsal import Practice, Rehearsal
from weights.bases import WEIGHTS

STEPS = 30
PRACTICE = Practice(lesson=(10, 20), pace=1, rest=0.2)


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    return AutoencoderKL.from_pretrained(WEIGHTS / "tiny-flux", subfolder="vae", dtype=torch.float32)


@pytest.fixture
def matrices() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [
        nn.Parameter(torch.randn(8, 24, generator=generator)),
        nn.Parameter(torch.randn(12, 8, generator=generator)),
    ]


def rehearsal_of(matrices: list[nn.Parameter], vae: AutoencoderKL) -> Rehearsal:
    return Rehearsal(vae, matrices, practice=PRACTICE, size=Size(32, 32), seed=1)


def network_loss(matrices: list[Tensor]) -> Tensor:
    """The loss of a small network of two layers on fixed inputs."""
    first, second = matrices
    inputs = torch.linspace(-1, 1, 24)
    return (torch.tanh(first @ inputs) @ second.T).square().sum()


def are_equal(some: list[Tensor], others: list[Tensor]) -> bool:
    return all(torch.equal(*pair) for pair in zip(some, others, strict=True))


def test_the_weights_are_bit_for_bit_the_same_after_every_step(vae, matrices):
    before = [matrix.detach().clone() for matrix in matrices]
    rehearsal = rehearsal_of(matrices, vae)
    applied = 0
    for _ in range(STEPS):
        with rehearsal.step(lambda _: network_loss(matrices), count=2):
            applied += not are_equal(matrices, before)
        assert are_equal(matrices, before)
    assert applied > STEPS / 2


def test_a_lora_is_applied_to_copies_of_the_network_too(matrices):
    other = [nn.Parameter(matrix.detach() + 1) for matrix in matrices]
    before = [matrix.detach().clone() for matrix in matrices + other]
    lora = PracticeLora(matrices, rate=0.01, generator=torch.Generator().manual_seed(2))
    with lora.applied():
        lora.learn(network_loss(matrices))
    with lora.applied(other):
        deltas = [matrix.detach() - value for matrix, value in zip(matrices + other, before, strict=True)]
    assert deltas[0].abs().max() > 0
    assert torch.allclose(deltas[0], deltas[2], atol=1e-6)
    assert are_equal(matrices + other, before)


def test_a_step_yields_images_of_one_figure_with_one_word_or_none(vae, matrices):
    rehearsal = rehearsal_of(matrices, vae)
    batches = []
    for _ in range(PRACTICE.lesson[0]):
        with rehearsal.step(lambda _: network_loss(matrices), count=2) as samples:
            batches.append(samples)
    assert {len(samples) for samples in batches} == {0, 2}
    words = {sample.caption.text.split()[0] for samples in batches for sample in samples}
    assert len(words) == 1
    assert all(sample.caption.by_word for samples in batches for sample in samples)


def test_a_resumed_rehearsal_is_the_same_as_an_uninterrupted_one(vae, matrices):
    whole, first = rehearsal_of(matrices, vae), rehearsal_of(matrices, vae)
    second = rehearsal_of(matrices, vae)
    expected = matrix_at_each_step(whole, matrices, steps=STEPS)
    found = matrix_at_each_step(first, matrices, steps=STEPS // 2)
    second.load_state_dict(first.state_dict())
    found += matrix_at_each_step(second, matrices, steps=STEPS - STEPS // 2)
    assert are_equal(found, expected)


def matrix_at_each_step(rehearsal: Rehearsal, matrices: list[nn.Parameter], *, steps: int) -> list[Tensor]:
    """The first matrix in each step."""
    found = []
    for _ in range(steps):
        with rehearsal.step(lambda _: network_loss(matrices), count=2):
            found.append(matrices[0].detach().clone())
    return found


def test_a_practice_lora_trains_like_one_of_peft():
    """The chain rule against autograd: PEFT's LoRA on the same layers, with the same initial A, in double precision."""
    network = nn.Sequential(nn.Linear(24, 8, bias=False), nn.Tanh(), nn.Linear(8, 12, bias=False)).double()
    lora = PracticeLora(list(network.parameters()), rate=0.01, generator=torch.Generator().manual_seed(2))
    peft = _peft_lora_like(network, generator=torch.Generator().manual_seed(2))
    optimizer = torch.optim.AdamW([p for p in peft.parameters() if p.requires_grad], lr=0.01, weight_decay=1e-4)
    inputs = torch.linspace(-1, 1, 24, dtype=torch.float64)
    for _ in range(20):
        with lora.applied():
            lora.learn((network(inputs) - 1).square().sum())
        (peft(inputs) - 1).square().sum().backward()
        nn.utils.clip_grad_norm_([p for p in peft.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        optimizer.zero_grad()
    with lora.applied():
        assert torch.allclose(network(inputs), peft(inputs), rtol=1e-9)
    assert not torch.allclose(network(inputs), peft(inputs), rtol=1e-2)


def _peft_lora_like(network: nn.Sequential, *, generator: torch.Generator) -> PeftModel:
    """PEFT's LoRA on a copy of the network, with the initial A of a practice LoRA."""
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["0", "2"])
    peft = get_peft_model(copy.deepcopy(network), config, autocast_adapter_dtype=False)
    for name, parameter in peft.named_parameters():
        if ".lora_A." in name:
            rank, inputs = parameter.shape
            parameter.data = ((torch.rand(rank, inputs, generator=generator) * 2 - 1) / inputs**0.5).double()
        elif ".lora_B." in name:
            parameter.data = parameter.data.double()
    return peft
