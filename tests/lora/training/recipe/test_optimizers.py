"""Every optimizer learns, continues from its saved state bit for bit, and refuses a state that is not its own."""

import json

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from lora.training.recipe.optimizers import (
    OPTIMIZERS,
    SCHEDULES,
    bytes_per_parameter,
    effective_learning_rate,
    load_optimizer_state,
    make_optimizer,
    make_schedule,
    optimizer_state,
)
from tests.tiny import assert_one_sentence

SHAPES = [(16, 300), (4, 8), (64, 80), (7,)]  # two have over 4096 elements: 8-bit optimizers keep their state in 8 bits
STEPS = 40
RATE = 1e-3


def parameters(shapes=SHAPES):
    """Random parameters, like A of a LoRA, and parameters of zeros, like B, in turn."""
    generator = torch.Generator().manual_seed(0)
    return [
        nn.Parameter(torch.randn(shape, generator=generator) * (index % 2 == 0)) for index, shape in enumerate(shapes)
    ]


def optimizer_of(name, trained, *, rate=RATE, weight_decay=1e-2):
    return make_optimizer(name, trained, learning_rate=rate, weight_decay=weight_decay, epsilon=1e-8)


def train(optimizer, schedule, trained, steps):
    """Take steps towards 1, with gradients that have different noise in every step."""
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for parameter in trained:
            parameter.grad = parameter.detach() - 1 + torch.randn(parameter.shape, generator=generator)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()


def after_some_steps(name, *, schedule_name="cosine", steps=5):
    """An optimizer after some steps, its schedule and its parameters."""
    trained = parameters()
    optimizer = optimizer_of(name, trained)
    schedule = make_schedule(schedule_name, optimizer, steps=STEPS)
    train(optimizer, schedule, trained, range(steps))
    return optimizer, schedule, trained


def saved_and_loaded(tensors, values):
    return load(save(tensors)), json.loads(json.dumps(values))


def state_of(optimizer):
    tensors, values = optimizer_state(optimizer)
    return {name: tensor.tolist() for name, tensor in tensors.items()}, json.loads(json.dumps(values))


@pytest.mark.parametrize("schedule_name", SCHEDULES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_restored_optimizer_continues_bit_for_bit(name, schedule_name):
    """Case B40, with parameters and rates as they would have been without the interruption."""
    uninterrupted, its_schedule, expected = after_some_steps(name, schedule_name=schedule_name)
    saved = [parameter.detach().clone() for parameter in expected]
    state, schedule_state = saved_and_loaded(*optimizer_state(uninterrupted)), json.dumps(its_schedule.state_dict())
    train(uninterrupted, its_schedule, expected, range(5, 12))

    restored = [nn.Parameter(tensor) for tensor in saved]
    optimizer = optimizer_of(name, restored)
    schedule = make_schedule(schedule_name, optimizer, steps=STEPS)
    load_optimizer_state(optimizer, *state)
    schedule.load_state_dict(json.loads(schedule_state))
    train(optimizer, schedule, restored, range(5, 12))
    for ours, theirs in zip(restored, expected, strict=True):
        assert torch.equal(ours, theirs)
    assert state_of(optimizer) == state_of(uninterrupted)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_loading_changes_no_parameter_and_leaves_no_gradient(name):
    optimizer, _, trained = after_some_steps(name)
    before = [parameter.detach().clone() for parameter in trained]
    load_optimizer_state(optimizer, *saved_and_loaded(*optimizer_state(optimizer)))
    assert all(torch.equal(ours, kept) for ours, kept in zip(trained, before, strict=True))
    assert all(parameter.grad is None for parameter in trained)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_state_is_a_copy_that_later_steps_do_not_change(name):
    optimizer, schedule, trained = after_some_steps(name)
    tensors, _ = optimizer_state(optimizer)
    before = {key: tensor.clone() for key, tensor in tensors.items()}
    train(optimizer, schedule, trained, range(5, 7))
    assert all(torch.equal(tensors[key], tensor) for key, tensor in before.items())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_parameter_that_never_had_a_gradient_is_restored_without_state(name):
    trained = parameters()
    optimizer = optimizer_of(name, trained)
    trained[0].grad = torch.ones_like(trained[0])
    optimizer.step()
    restored = [nn.Parameter(parameter.detach().clone()) for parameter in trained]
    other = optimizer_of(name, restored)
    load_optimizer_state(other, *saved_and_loaded(*optimizer_state(optimizer)))
    assert state_of(other) == state_of(optimizer)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_reduces_the_error(name):
    trained = parameters()
    optimizer = optimizer_of(name, trained, rate=0.1 if name == "adagrad" else 0.02, weight_decay=0.0)
    before = sum((parameter - 1).square().sum().item() for parameter in trained)
    train(optimizer, make_schedule("constant", optimizer, steps=STEPS), trained, range(150))
    assert sum((parameter - 1).square().sum().item() for parameter in trained) < before / 2


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_memory_plan_knows_the_bytes_of_the_state(name):
    """For A at rank 16 of a layer with a width of 3072, where constant bytes per tensor count little."""
    trained = parameters([(16, 3072)])
    optimizer = optimizer_of(name, trained)
    train(optimizer, make_schedule("constant", optimizer, steps=STEPS), trained, range(1))
    tensors, _ = optimizer_state(optimizer)
    measured = sum(tensor.nbytes for key, tensor in tensors.items() if "qmap" not in key) / trained[0].numel()
    assert measured <= bytes_per_parameter(name) * 1.001
    if name != "adafactor":  # whose exact bytes depend on the rank
        assert measured == pytest.approx(bytes_per_parameter(name), rel=1e-3)


@pytest.mark.parametrize(
    ("name", "is_small"), [("adamw8bit", True), ("adam8bit", True), ("lion8bit", True), ("adamw", 0)]
)
def test_only_the_8_bit_optimizers_keep_their_state_in_8_bits(name, is_small):
    """Trap 20."""
    tensors, _ = optimizer_state(after_some_steps(name)[0])
    large = [tensor.dtype for key, tensor in tensors.items() if key[0] in "02" and tensor.numel() > 4096]
    assert large
    assert set(large) == {torch.uint8 if is_small else torch.float32}


def test_the_names_are_those_of_the_public_trainer():
    assert ",".join(OPTIMIZERS) == "adamw8bit,adamw,adam8bit,adam,prodigy,lion8bit,lion,adagrad,adafactor"


def test_an_unknown_name_is_refused_with_the_known_names():
    with pytest.raises(ValueError) as error:
        optimizer_of("sgd", parameters())
    assert_one_sentence(error.value, "optimizer is 'sgd'", *OPTIMIZERS)
    with pytest.raises(ValueError) as error:
        make_schedule("step", optimizer_of("adamw", parameters()), steps=10)
    assert_one_sentence(error.value, "lr_scheduler is 'step'", *SCHEDULES)


@pytest.mark.parametrize(
    ("name", "rate", "expected"),
    [("prodigy", 4e-4, 1.0), ("prodigy", 0.1, 0.1), ("prodigy", 2.0, 2.0), ("adamw", 4e-4, 4e-4)],
)
def test_a_rate_meant_for_adam_becomes_1_for_prodigy(name, rate, expected):
    assert effective_learning_rate(name, rate) == expected
    assert optimizer_of(name, parameters(), rate=rate).param_groups[0]["lr"] == expected


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_options_are_passed_to_the_optimizer(name):
    (group,) = make_optimizer(name, parameters(), learning_rate=0.5, weight_decay=0.03, epsilon=1e-6).param_groups
    assert (group["lr"], group["weight_decay"]) == (0.5, 0.03)
    if name not in ("adagrad", "adafactor"):
        assert group["betas"] == ((0.9, 0.99) if name.startswith("lion") else (0.9, 0.999))
    if name not in ("lion", "lion8bit", "adafactor"):
        assert group["eps"] == 1e-6


def test_creating_an_optimizer_prints_nothing(capfd):
    for name in OPTIMIZERS:
        optimizer_of(name, parameters())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("steps", "warm_up"), [(100, 5), (1000, 50), (6000, 50), (3, 0)])
def test_schedules_warm_up_linearly_and_then_follow_their_names(name, steps, warm_up):
    trained = parameters([(1,)])
    optimizer = optimizer_of("adamw", trained)
    schedule = make_schedule(name, optimizer, steps=steps)
    rates = []
    for _ in range(steps):
        rates.append(schedule.get_last_lr()[0] / RATE)
        optimizer.step()
        schedule.step()
    assert rates[:warm_up] == pytest.approx([(step + 1) / (warm_up + 1) for step in range(warm_up)])
    assert rates[warm_up] == pytest.approx(1)
    half = rates[warm_up + (steps - warm_up) // 2]
    last = {"constant": 1.0, "cosine": 0.0, "linear": 0.0}[name]
    assert schedule.get_last_lr()[0] / RATE == pytest.approx(last, abs=1e-9)
    if steps > 3:
        assert half == pytest.approx({"constant": 1.0, "cosine": 0.5, "linear": 0.5}[name], abs=0.02)


def refusal(name, change):
    """The error message for a state that was changed."""
    optimizer, _, trained = after_some_steps(name)
    tensors, values = saved_and_loaded(*optimizer_state(optimizer))
    change(tensors, values)
    fresh = optimizer_of(name, [nn.Parameter(parameter.detach().clone()) for parameter in trained])
    with pytest.raises(ValueError) as error:
        load_optimizer_state(fresh, tensors, values)
    assert_one_sentence(error.value, "saved state")
    return str(error.value)


CHANGES = {
    "a short tensor": lambda tensors, values: tensors.update({"0.state1": tensors["0.state1"][:8].clone()}),
    "few scales": lambda tensors, values: tensors.update({"0.absmax1": torch.zeros(1)}),
    "another dtype": lambda tensors, values: tensors.update({"0.state2": tensors["0.state2"].float()}),
    "8 bits where 32 belong": lambda tensors, values: tensors.update(
        {"1.state1": torch.zeros(4, 8, dtype=torch.uint8)}
    ),
    "a missing tensor": lambda tensors, values: tensors.pop("0.qmap1"),
    "a name with escape codes": lambda tensors, values: tensors.update({f"0.\x1b[31m\r{'x' * 999}": torch.zeros(1)}),
    "one too many": lambda tensors, values: tensors.update({"0.more": torch.zeros(1)}),
    "a parameter too many": lambda tensors, values: tensors.update({"4.state1": torch.zeros(1)}),
    "no number of a parameter": lambda tensors, values: tensors.update({"x": torch.zeros(1)}),
    "a tensor as step": lambda tensors, values: tensors.update({"0.step": torch.zeros(1)}),
    "text as step": lambda tensors, values: values["numbers"]["0"].update(step="1"),
    "a number as tensor": lambda tensors, values: values["numbers"]["0"].update(
        state1=tensors.pop("0.state1").sum().item()
    ),
    "no groups": lambda tensors, values: values.pop("groups"),
    "a group too many": lambda tensors, values: values["groups"].append({}),
    "a group without options": lambda tensors, values: values["groups"].__setitem__(0, {}),
    "other parameters": lambda tensors, values: values["groups"][0].update(params=[1]),
    "text as option": lambda tensors, values: values["groups"][0].update(lr="1"),
    "a table as option": lambda tensors, values: values["groups"][0].update(lr={}),
    "no numbers": lambda tensors, values: values.pop("numbers"),
    "numbers that are none": lambda tensors, values: values["numbers"].update({"0": 3}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_invalid_state_is_refused(change):
    """The state may be untrusted, and the 8-bit kernels do not check sizes."""
    message = refusal("adamw8bit", CHANGES[change])
    assert message.isprintable()
    assert len(message) < 600


def test_the_state_of_another_optimizer_is_refused():
    tensors, values = saved_and_loaded(*optimizer_state(after_some_steps("adam")[0]))
    message = refusal("adagrad", lambda own, numbers: (own.clear(), own.update(tensors), numbers.update(values)))
    assert "expected the options" in message


def test_adagrad_without_its_state_is_refused():
    refusal("adagrad", lambda tensors, values: (tensors.clear(), values["numbers"].clear()))


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam)])
def test_the_state_of_a_fused_optimizer_can_be_loaded_without_fusing_and_the_other_way_round(name, kind):
    """Each keeps its own implementation, and takes the same steps except for rounding."""

    def fused(trained):
        return kind(trained, lr=RATE, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, fused=True)

    def plain(trained):
        return optimizer_of(name, trained)

    for one, other in ((fused, plain), (plain, fused)):
        results = []
        for makers in ((one, other), (one, one)):
            trained = parameters()
            optimizer = makers[0](trained)
            schedule = make_schedule("constant", optimizer, steps=STEPS)
            train(optimizer, schedule, trained, range(5))
            resumed = makers[1](trained)
            own = resumed.param_groups[0]["fused"]
            load_optimizer_state(resumed, *saved_and_loaded(*optimizer_state(optimizer)))
            assert resumed.param_groups[0]["fused"] is own
            schedule.optimizer = resumed
            train(resumed, schedule, trained, range(5, 10))
            results.append(trained)
        for found, expected in zip(*results, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_optimizers_are_not_fused_on_a_cpu():
    assert optimizer_of("adamw", parameters()).param_groups[0]["fused"] is None
