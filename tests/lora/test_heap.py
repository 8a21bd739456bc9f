"""Freed memory is returned to the operating system."""

from pathlib import Path

import pytest
import torch

from lora.dataset.cache import DiskCache
from lora.heap import trim_heap

MEBIBYTE = 2**20


def anonymous_bytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def test_trim_heap_can_be_called_at_any_time():
    trim_heap()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc/self/status of Linux")
def test_tensors_in_the_disk_cache_do_not_stay_in_memory(tmp_path):
    """400 MiB of encoded captions."""
    cache, caption = DiskCache(tmp_path, most_bytes=2**30), torch.randn(512, 2048)
    before = anonymous_bytes()
    kept = [cache.put(str(index), {"tokens": caption.clone()}) for index in range(100)]
    assert len(kept) == 100
    assert anonymous_bytes() - before < 200 * MEBIBYTE
