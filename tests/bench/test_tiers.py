"""The benchmark of cards: the plan that is measured for a card, and the table."""

import pytest

from bench import tier_case
from bench.random_flux import DEV, tiny_sizes
from bench.tier_case import CardResult, measure_card, plan_for
from bench.tiers import as_markdown
from lora.engine.precision import TimedMatmul


@pytest.mark.parametrize(("card", "expected"), [(48, "bf16"), (16, "int8"), (8, "blocks streamed")])
def test_a_card_is_measured_with_the_plan_of_a_training_on_it(card, expected):
    plan = plan_for(DEV, card=card, side=1024, matmuls=(TimedMatmul("int8", 1.0),), on_gpu=True)
    assert plan.fits
    assert expected in plan.line()


def test_out_of_memory_is_reported_and_other_errors_are_raised(monkeypatch: pytest.MonkeyPatch):
    def failing(message):
        def steps(*_):
            raise RuntimeError(message)

        return steps

    monkeypatch.setattr(tier_case, "_steps", failing("CUDA error: out of memory"))
    found = measure_card(tiny_sizes(), card=8, side=64, steps=1)
    assert found.seconds is None
    assert as_markdown([found]).endswith("| out of memory |")
    monkeypatch.setattr(tier_case, "_steps", failing("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        measure_card(tiny_sizes(), card=8, side=64, steps=1)


def test_a_row_has_the_predicted_and_the_measured_memory():
    base = "base in int8, activations recomputed"
    line = f"plan: {base}, encoders loaded together; predicted peak 11.3 GB of 11.4 GB free"
    row = as_markdown([CardResult(12, 512, line, 11.3e9, 10_000_000_000, 11_000_000_000, 0.5)]).splitlines()[-1]
    assert row == "| 12 GB | 512 | base in int8, activations recomputed | 11.3 GB | 10.0 GB | 11.0 GB | 0.500 |"
