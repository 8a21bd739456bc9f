"""The environment selects the engine."""

import pytest

from lora.engine.options import chosen_engine
from tests.tiny import assert_one_sentence


@pytest.mark.parametrize(("value", "expected"), [(None, "fast"), ("", "fast"), ("fast", "fast"), (" plain ", "plain")])
def test_the_engine_is_fast_unless_the_environment_says_plain(monkeypatch, value, expected):
    monkeypatch.delenv("FLUX_ENGINE", raising=False)
    if value is not None:
        monkeypatch.setenv("FLUX_ENGINE", value)
    assert chosen_engine() == expected


def test_an_unknown_engine_is_refused(monkeypatch):
    monkeypatch.setenv("FLUX_ENGINE", "warp")
    with pytest.raises(ValueError, match="FLUX_ENGINE") as error:
        chosen_engine()
    assert_one_sentence(error.value, "'warp'", "plain or fast")
