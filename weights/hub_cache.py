"""The cache of Hugging Face's tools: which repository a folder in it is of, and where the main branch of one is.

Its layout is documented at https://huggingface.co/docs/huggingface_hub/guides/manage-cache. Downloads nothing.
"""

from pathlib import Path

SNAPSHOTS, MAIN = "snapshots", "refs/main"
PREFIX, SEPARATOR = "models--", "--"


def cached_repository(folder: Path) -> str | None:
    """Return owner/name if a folder is a snapshot in a cache, by its path: models--owner--name/snapshots/commit."""
    repository = folder.parent.parent.name
    if folder.parent.name != SNAPSHOTS or not repository.startswith(PREFIX):
        return None
    return repository.removeprefix(PREFIX).replace(SEPARATOR, "/", 1)


def find_snapshot(repository: str, hub: Path) -> Path | None:
    """Return the snapshot of owner/name in the cache folder `hub`: that of its main branch, or the only one.

    None if the cache does not have the repository, whose name may be in lower case there. Raises ValueError with one
    sentence if it has it, but no such snapshot.
    """
    wanted = f"{PREFIX}{repository.replace('/', SEPARATOR)}".lower()
    found = [folder for folder in sorted(hub.glob(f"{PREFIX}*")) if folder.name.lower() == wanted]
    if not found:
        return None
    snapshots = sorted(folder for folder in (found[0] / SNAPSHOTS).glob("*") if folder.is_dir())
    main = found[0] / MAIN
    commit = main.read_text(encoding="utf-8", errors="replace").strip() if main.is_file() else None
    chosen = [folder for folder in snapshots if commit in (None, folder.name)]
    if len(chosen) != 1:
        count = f"{len(snapshots)} snapshots" if commit is None else f"no snapshot of its {MAIN}"
        expected = f"expected one of {MAIN}, or a single one; download {repository} again"
        raise ValueError(f"{found[0]} has {count}: {expected}")
    return chosen[0]
