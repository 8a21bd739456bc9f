"""A worker uses the base of RunPod's model cache, unless its settings name another one; never silently another."""

import pytest

from deploy.runpod.model_cache import use_cached_base
from tests.weights.test_hub_cache import COMMIT, OTHER, cached
from weights.base_kind import INDEX


@pytest.fixture(autouse=True)
def without_downloaded_bases(tmp_path, monkeypatch):
    """There may be some in weights/."""
    monkeypatch.setattr("deploy.runpod.model_cache.WEIGHTS", tmp_path / "weights")


@pytest.mark.parametrize(
    ("repository", "setting"),
    [
        ("models--black-forest-labs--FLUX.1-dev", {}),
        ("models--black-forest-labs--FLUX.1-dev", {"FLUX_BASE": "dev"}),
        ("models--black-forest-labs--FLUX.1-schnell", {}),
        ("models--black-forest-labs--FLUX.2-klein-base-4B", {}),
        ("models--black-forest-labs--FLUX.2-klein-base-9B", {"FLUX_BASE": "klein-9b"}),
        ("models--black-forest-labs--flux.1-krea-dev", {"FLUX_BASE": "krea"}),
        ("models--me--my-base", {"FLUX_BASE": "me/my-base"}),
    ],
)
def test_the_cached_base_is_used(tmp_path, repository, setting):
    folder = cached(tmp_path, COMMIT, name=repository)
    environment = dict(setting)
    assert "from the model cache" in use_cached_base(environment, hub=tmp_path)
    assert environment == {"FLUX_BASE": str(folder / "snapshots" / COMMIT)}


@pytest.mark.parametrize(
    "setting",
    [
        {"FLUX_BASE": "tiny"},
        {"FLUX_BASE": "krea"},
        {"FLUX_BASE": "/runpod-volume/my-base"},
        {"FLUX_BASE": "me/my-base"},
        {"FLUX_BASE_URL": "hf://me/my-base"},
        {"FLUX_BASE": "dev", "FLUX_BASE_URL": "https://example.com/base.tar"},
    ],
)
def test_other_settings_are_left_alone(tmp_path, setting):
    cached(tmp_path, COMMIT)
    environment = dict(setting)
    assert "from the model cache" not in use_cached_base(environment, hub=tmp_path)
    assert environment == setting


def test_a_base_in_weights_comes_first(tmp_path):
    (tmp_path / "weights/dev").mkdir(parents=True)
    (tmp_path / "weights/dev" / INDEX).touch()
    cached(tmp_path, COMMIT)
    environment = {"FLUX_BASE": "dev"}
    use_cached_base(environment, hub=tmp_path)
    assert environment == {"FLUX_BASE": "dev"}


def test_a_cache_that_is_not_whole_is_refused(tmp_path):
    cached(tmp_path, OTHER, main=COMMIT)
    with pytest.raises(ValueError, match="has no snapshot of its refs/main"):
        use_cached_base({}, hub=tmp_path)
