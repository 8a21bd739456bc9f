"""The record of a run has what it took and on what."""

import json

from lora.training.learning.summary import Usage
from lora.training.memory.configurations import Plan
from lora.training.memory.host import HostMemory
from lora.training.memory.weights import MemoryConfiguration
from lora.training.result.run_record import run_record

PLAN = Plan(
    MemoryConfiguration("fp32", "nothing", False),
    *(6, "GELU", "together", "fast", 2.5e9, 0.0, 0.0, HostMemory(0, 0, 0, 0), ()),
)


def test_the_record_has_seconds_memory_machine_and_versions():
    record = run_record(PLAN, Usage(4, 2.0, 0.5, 2_000_000_000), processes=1, seconds=12.34)
    assert record["seconds"] == {"job": 12.3, "steps": 2.0, "validation_samples_and_page": 0.5, "per_step": 0.5}
    assert record["memory"]["device_predicted_bytes"] == 2_500_000_000
    assert record["memory"]["device_measured_bytes"] == 2_000_000_000
    assert record["memory"]["host_measured_bytes"] > 100_000_000, "this process has imported torch"
    assert record["machine"]["cores"] > 0
    assert record["versions"]["torch"].startswith("2.")
    assert json.loads(json.dumps(record)) == record


def test_a_run_that_took_no_step_has_no_seconds_per_step():
    assert run_record(PLAN, Usage(0, 0.0, 0.0, None), processes=1, seconds=1.0)["seconds"]["per_step"] is None
