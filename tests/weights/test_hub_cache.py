"""A base in a cache of Hugging Face is found by its repository, and is called what it is called elsewhere."""

import pytest

from tests.tiny import assert_one_sentence, linked_base
from weights.bases import find_base
from weights.hub_cache import cached_repository, find_snapshot

REPOSITORY = "black-forest-labs/FLUX.1-dev"
COMMIT, OTHER = "3de623fc3c33e44ffbe2bad470d0f45bccf2eb21", "0ef5fff789c832c5c7f4e127f94c8b54bbcced44"


def cached(hub, *commits, name="models--black-forest-labs--FLUX.1-dev", main=COMMIT):
    """A repository in a cache, with these snapshots."""
    folder = hub / name
    for commit in commits:
        (folder / "snapshots" / commit).mkdir(parents=True)
    if main:
        (folder / "refs").mkdir(parents=True)
        (folder / "refs/main").write_text(main)
    return folder


@pytest.mark.parametrize("name", ["models--black-forest-labs--FLUX.1-dev", "models--black-forest-labs--flux.1-dev"])
def test_the_snapshot_of_the_main_branch_is_found_whatever_the_case_of_the_name(tmp_path, name):
    folder = cached(tmp_path, COMMIT, OTHER, name=name)
    assert find_snapshot(REPOSITORY, tmp_path) == folder / "snapshots" / COMMIT


def test_without_a_main_branch_the_only_snapshot_is_found(tmp_path):
    folder = cached(tmp_path, OTHER, main=None)
    assert find_snapshot(REPOSITORY, tmp_path) == folder / "snapshots" / OTHER


@pytest.mark.parametrize(
    ("commits", "main", "found"),
    [
        ([OTHER], COMMIT, "has no snapshot of its refs/main"),
        ([], COMMIT, "has no snapshot of its refs/main"),
        ([COMMIT, OTHER], None, "has 2 snapshots"),
        ([], None, "has 0 snapshots"),
    ],
)
def test_a_repository_without_that_snapshot_is_refused_and_no_other_one_is_used(tmp_path, commits, main, found):
    (tmp_path / "models--black-forest-labs--FLUX.1-dev").mkdir()
    cached(tmp_path, *commits, main=main)
    with pytest.raises(ValueError) as error:
        find_snapshot(REPOSITORY, tmp_path)
    assert_one_sentence(error.value, found, "expected", f"download {REPOSITORY} again")


def test_a_cache_without_the_repository_has_none(tmp_path):
    cached(tmp_path, COMMIT, name="models--black-forest-labs--FLUX.1-dev-onnx")
    assert find_snapshot(REPOSITORY, tmp_path) is None
    assert find_snapshot(REPOSITORY, tmp_path / "nothing") is None


@pytest.mark.parametrize(
    ("repository", "name"),
    [
        ("models--black-forest-labs--FLUX.1-dev", "dev"),
        ("models--black-forest-labs--flux.1-krea-dev", "krea"),
        ("models--me--my--base", "me/my--base"),
        ("datasets--black-forest-labs--FLUX.1-dev", f"folder {COMMIT}"),
    ],
)
def test_a_base_in_a_cache_has_the_name_of_its_repository(tmp_path, monkeypatch, repository, name):
    """So that its licence, its model card and the rule that it needs a GPU are those of the published base."""
    folder = tmp_path / repository / "snapshots" / COMMIT
    folder.parent.mkdir(parents=True)
    linked_base(folder)
    checked = []
    monkeypatch.setenv("FLUX_BASE", str(folder))
    base = find_base(lambda *given: checked.append(given))
    assert (base.name, base.path) == (name, folder)
    assert [published for _, published in checked] == [name in ("dev", "krea")]


def test_only_a_snapshot_is_of_a_repository(tmp_path):
    assert cached_repository(tmp_path / "models--a--b") is None
    assert cached_repository(tmp_path / "models--a--b/blobs/x") is None
