"""How the tests are ordered and distributed. Their shared fixtures are in tests/fixtures.py."""

from lora.garbage import collect_garbage_again

# isort: split
import gc
import signal

import pytest

# The groups that take longest start first, so that no worker is left alone with one at the end.
FIRST_GROUPS = ("learning", "servers", "warm", "soak")


def pytest_configure(config: pytest.Config) -> None:
    """Let the workers start groups in the order of the tests; by default, the largest group is first. Ctrl-C is as in a
    terminal: a background job of a shell ignores it, and so would all processes of tests. The process that only
    distributes tests has no fixtures, whose imports take seconds before the workers can start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.pluginmanager.hasplugin("xdist"):
        config.option.loadscopereorder = False
    if not config.getoption("numprocesses", None) or hasattr(config, "workerinput"):
        config.pluginmanager.import_plugin("tests.fixtures")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """Let the process that only distributes tests collect garbage too. The others do so after they have found tests."""
    collect_garbage_again()


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Make each module without a group one, so that only one worker makes its fixtures, and put the longest first."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))
    items.sort(key=_rank)


def pytest_collection_finish() -> None:
    """Let garbage collections, of which a training does several, skip the million objects that imports have made."""
    gc.collect()
    collect_garbage_again()


def _rank(item: pytest.Item) -> int:
    """The place of a test's group among the longest ones; all others come after them, in their own order."""
    group = next(item.iter_markers("xdist_group")).args[0]
    return FIRST_GROUPS.index(group) if group in FIRST_GROUPS else len(FIRST_GROUPS)


def pytest_make_parametrize_id(val: object) -> str | None:
    """Return a short id for bytes: they may contain the time, and ids must be the same in every worker."""
    return f"{len(val)} bytes" if isinstance(val, bytes) else None
