"""Encoded tensors are cached completely or not at all, up to a cap, even if processes share the cache or are killed."""

import os
import time

import pytest
import torch

from lora import host_memory
from lora.dataset import cache as cache_module
from lora.dataset.cache import DiskCache, MemoryCache, open_cache
from tests.tiny import assert_one_sentence

LARGE = 2**30


def tensors(value=1.0, count=64):
    return {"latents": torch.full((count,), value)}


def disk_cache(tmp_path, *, most_bytes=LARGE):
    return DiskCache(tmp_path / "cache", most_bytes=most_bytes)


def files(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache").iterdir())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_later_job_gets_the_same_tensors_bit_for_bit(tmp_path, dtype):
    put = {"a": torch.randn(3, 5).to(dtype), "b": torch.randn(2, 2).to(dtype).T}
    returned, loaded = disk_cache(tmp_path).put("key", put), disk_cache(tmp_path).get("key")
    for name, tensor in put.items():
        assert torch.equal(returned[name], tensor)
        assert torch.equal(loaded[name], tensor)
        assert loaded[name].dtype == dtype


def test_an_unknown_key_returns_none(tmp_path):
    cache = disk_cache(tmp_path)
    cache.put("key", tensors())
    assert cache.get("other") is None


@pytest.mark.parametrize("damage", [b"", b"rubbish", None])
def test_a_damaged_file_counts_as_missing_and_is_replaced(tmp_path, damage):
    cache = disk_cache(tmp_path)
    cache.put("key", tensors())
    path = tmp_path / "cache/key.safetensors"
    path.write_bytes(path.read_bytes()[:-1] if damage is None else damage)
    assert cache.get("key") is None
    cache.put("key", tensors(2.0))
    assert cache.get("key")["latents"][0] == 2


def test_the_least_recently_used_tensors_are_evicted_first(tmp_path):
    for key in ("old", "used", "new"):
        disk_cache(tmp_path).put(key, tensors())
    size = (tmp_path / "cache/old.safetensors").stat().st_size
    for age, key in enumerate(("new", "used", "old"), 1):
        os.utime(tmp_path / f"cache/{key}.safetensors", (time.time() - 1000 * age,) * 2)
    later = disk_cache(tmp_path, most_bytes=3 * size)
    later.get("old")
    later.put("newest", tensors())
    assert later.get("used") is None
    assert later.get("old") is not None
    assert sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) <= 3 * size


def test_tensors_that_the_job_itself_uses_are_not_evicted(tmp_path):
    cache = disk_cache(tmp_path, most_bytes=1)
    for key in ("a", "b"):
        cache.put(key, tensors())
    assert cache.get("a") is not None


def test_partial_files_of_a_killed_job_are_deleted_after_an_hour(tmp_path):
    cache = disk_cache(tmp_path)
    for name, age in (("old.part", 7200), ("recent.part", 60)):
        path = tmp_path / "cache" / name
        path.write_bytes(b"half")
        os.utime(path, (time.time() - age,) * 2)
    cache.put("key", tensors())
    disk_cache(tmp_path)
    assert files(tmp_path) == ["key.safetensors", "recent.part"]


def test_tensors_stay_usable_when_another_process_deletes_their_files(tmp_path):
    loaded = disk_cache(tmp_path).put("key", tensors(3.0, count=100_000))
    for path in (tmp_path / "cache").iterdir():
        path.unlink()
    assert loaded["latents"].sum() == 300_000


def test_only_the_owner_can_access_the_folder(tmp_path):
    disk_cache(tmp_path)
    assert (tmp_path / "cache").stat().st_mode & 0o077 == 0


def test_the_environment_sets_the_folder_and_the_cap(tmp_path, monkeypatch):
    monkeypatch.setenv("FLUX_LORA_CACHE", str(tmp_path / "mine"))
    open_cache(on_disk=True, needed=1000).put("key", tensors())
    assert (tmp_path / "mine/encoded/key.safetensors").is_file()
    monkeypatch.setenv("FLUX_LORA_CACHE_GIB", "0.5")
    with pytest.raises(ValueError) as error:
        open_cache(on_disk=True, needed=2**30)
    assert_one_sentence(error.value, "cache_latents_to_disk", "1.0 GiB", "512.0 MiB", "FLUX_LORA_CACHE_GIB")


@pytest.mark.parametrize("cap", ["much", "-1", "nan", "inf"])
def test_an_invalid_cap_is_refused_with_the_name_of_the_variable(tmp_path, monkeypatch, cap):
    monkeypatch.setenv("FLUX_LORA_CACHE", str(tmp_path))
    monkeypatch.setenv("FLUX_LORA_CACHE_GIB", cap)
    with pytest.raises(ValueError) as error:
        open_cache(on_disk=True, needed=0)
    assert_one_sentence(error.value, "FLUX_LORA_CACHE_GIB", cap)


def test_a_folder_that_cannot_be_created_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("FLUX_LORA_CACHE", str(tmp_path / "file"))
    with pytest.raises(ValueError) as error:
        open_cache(on_disk=True, needed=0)
    assert_one_sentence(error.value, "cache_latents_to_disk", "FLUX_LORA_CACHE")


def test_a_data_set_too_large_for_the_disk_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "DISK_TO_SPARE", 2**62)
    with pytest.raises(ValueError) as error:
        disk_cache(tmp_path).require_space(1000)
    assert_one_sentence(error.value, "cache_latents_to_disk", "found 0 bytes beside the")


def test_a_data_set_too_large_for_the_memory_is_refused_with_advice():
    with pytest.raises(ValueError) as error:
        open_cache(on_disk=False, needed=2**60)
    assert_one_sentence(error.value, "input_images", "set cache_latents_to_disk")


def test_the_memory_cache_returns_the_same_tensors():
    cache, put = open_cache(on_disk=False, needed=0), tensors()
    assert isinstance(cache, MemoryCache)
    assert cache.put("key", put) is put
    assert cache.get("key") is put


@pytest.mark.parametrize(("limit", "fits"), [("4000000", True), ("2000000", False), ("max", True)])
def test_the_memory_limit_of_a_container_is_respected(tmp_path, monkeypatch, limit, fits):
    """Half of the free memory may be used; the page cache, for example of weights that were read, counts as free."""
    files = {
        "memory.max": limit,
        "memory.current": "1500000",
        "memory.stat": "anon 500000\nfile 1100000\nshmem 100000\n",
    }
    for name, content in files.items():
        (tmp_path / name).write_text(f"{content}\n" if name != "memory.stat" else content)
    monkeypatch.setattr(host_memory, "CONTAINER", tmp_path)
    if fits:
        open_cache(on_disk=False, needed=1_500_000)
    else:
        with pytest.raises(ValueError, match="set cache_latents_to_disk"):
            open_cache(on_disk=False, needed=1_500_000)
