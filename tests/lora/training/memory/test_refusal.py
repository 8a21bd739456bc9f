"""A training that certainly does not fit is refused with one sentence that names what lacks, and no other one is."""

import pytest

from lora import host_memory
from lora.training.memory.refusal import refuse_too_large
from tests.lora.training.memory.test_configurations import plans_for
from tests.lora.training.test_preparation import archive_of, prepared
from tests.tiny import assert_one_sentence


def refusal(plan):
    with pytest.raises(ValueError) as error:
        refuse_too_large(plan)
    return error.value


def test_pinned_weights_that_exceed_the_host_memory_are_refused():
    (plan,) = plans_for(8, host=8)
    found = refusal(plan)
    assert_one_sentence(found, "has 8.0 GB of free host memory: expected at least 10.9 GB", "precision=auto")


def test_weights_and_lora_that_exceed_the_gpu_memory_are_refused():
    (plan,) = plans_for(2)
    assert_one_sentence(refusal(plan), "the GPU has 1.4 GB of free memory: expected at least 2.4 GB", "base in nf4")
    (plan,) = plans_for(16, precision="bf16", checkpointing=False)
    assert_one_sentence(refusal(plan), "the GPU has 15.4 GB", "base in bf16", "precision=auto")


def test_without_a_gpu_the_memory_of_the_machine_counts():
    (plan,) = plans_for(16, on_gpu=False)
    assert_one_sentence(refusal(plan), "the machine has 15.4 GB of free memory", "base in fp32")


@pytest.mark.parametrize(("card", "host"), [(80, 3), (24, 30), (8, 24), (8, 15), (6, 15), (4, 13)])
def test_what_may_fit_is_not_refused(card, host):
    """Even if the estimates say that it does not."""
    refuse_too_large(plans_for(card, host=host)[0])


def test_a_training_is_refused_before_anything_is_loaded(tmp_path, monkeypatch):
    """In a container with a megabyte."""
    files = {"memory.max": "1000000", "memory.current": "0", "memory.stat": "file 0\nshmem 0\n"}
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(host_memory, "CONTAINER", tmp_path)
    with pytest.raises(ValueError, match=r"the machine has 0\.0 GB of free memory: expected at least"):
        prepared(archive_of(["red"], tmp_path), tmp_path)
