"""The budget for unpacking counts the bytes that are actually unpacked."""

import pytest

from lora.dataset import limits
from lora.dataset.limits import Budget
from lora.dataset.refusal import ContentError


def test_a_budget_can_be_spent_to_its_last_byte():
    budget = Budget(limit=10, of_disk=False)
    budget.spend(4)
    budget.spend(6)
    assert budget.spent == 10


def test_one_byte_beyond_the_limit_is_refused():
    budget = Budget(limit=1000, of_disk=False)
    budget.spend(1000)
    with pytest.raises(ContentError, match=r"^unpacks to 1,001 bytes or more: expected at most 1,000$"):
        budget.spend(1)


def test_a_check_spends_nothing():
    budget = Budget(limit=10, of_disk=False)
    budget.check(10)
    assert budget.spent == 0
    with pytest.raises(ContentError, match="11 bytes"):
        budget.check(11)


def test_a_disk_with_enough_space_does_not_set_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "DISK_TO_SPARE", 0)
    monkeypatch.setattr(limits, "MAX_BYTES", 10)
    assert Budget.of_folder(tmp_path) == Budget(limit=10, of_disk=False)


def test_a_disk_that_is_nearly_full_sets_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "DISK_TO_SPARE", 2**60)
    budget = Budget.of_folder(tmp_path)
    assert budget == Budget(limit=0, of_disk=True)
    with pytest.raises(
        ContentError, match=r"expected at most 0, because the disk has no more beside the \d+ GiB that are kept free$"
    ):
        budget.spend(1)
