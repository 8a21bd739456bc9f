"""Compiled code travels in files of limited size, and is whole again after it."""

import zlib

import pytest
import torch
from torch._inductor.codecache import FxGraphCache
from torch.compiler._cache import CacheArtifactManager

from bench import compile_artifacts
from bench.compile_artifacts import MOST_PARTS, load_artifacts, save_artifacts, write_parts


@pytest.fixture
def no_artifacts():
    """Torch keeps artifacts in the process."""
    CacheArtifactManager.clear()
    yield
    CacheArtifactManager.clear()


@pytest.mark.usefixtures("no_artifacts")
def test_without_compiled_code_there_is_no_file(tmp_path):
    assert save_artifacts(tmp_path / "run.jsonl") == []
    assert load_artifacts(tmp_path) == load_artifacts(tmp_path / "nowhere") == 0


@pytest.mark.usefixtures("no_artifacts")
def test_saved_code_is_in_the_cache_of_the_next_process(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compile_artifacts, "PART_BYTES", 64)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    CacheArtifactManager.record_artifact("inductor", "a-key", bytes(range(256)) * 4)
    files = save_artifacts(tmp_path / "run.jsonl")
    assert len(files) > 1
    assert [file.name for file in files] == [f"run.compiled-{number}" for number in range(len(files))]
    CacheArtifactManager.clear()
    assert load_artifacts(tmp_path) == len(files)
    assert FxGraphCache._get_tmp_dir_for_key("a-key").startswith(str(tmp_path))
    (stored,) = (file for file in (tmp_path / "inductor").rglob("*") if file.is_file())
    assert stored.read_bytes() == bytes(range(256)) * 4


def test_parts_are_joined_in_order_and_their_size_is_limited(tmp_path):
    files = write_parts(b"abcdefgh", tmp_path / "run.jsonl", part_bytes=3)
    assert [file.read_bytes() for file in files] == [b"abc", b"def", b"gh"]
    with pytest.raises(ValueError, match="compiled code takes 19 bytes: expected at most 18"):
        write_parts(bytes(3 * MOST_PARTS + 1), tmp_path / "run.jsonl", part_bytes=3)


def test_a_missing_part_is_an_error(tmp_path):
    content = zlib.compress(torch.randn(100).numpy().tobytes())
    write_parts(content, tmp_path / "run.jsonl", part_bytes=300)[-1].unlink()
    with pytest.raises(zlib.error):
        load_artifacts(tmp_path)
