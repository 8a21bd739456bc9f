"""The cases of cog-safe-push.yaml are valid for that tool, and hold on the real server with the embedded base."""

from typing import Any

import pytest
import yaml

from script.cog_server import ROOT, Server
from tests.cog_client import post_prediction, post_training

pytestmark = pytest.mark.xdist_group("servers")

CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "cog-safe-push.yaml").read_text())
# cog_safe_push/config.py, which forbids all others
CHECKS = {"exact_string", "match_url", "match_prompt", "jq_query", "error_contains"}
FUZZ = {"fixed_inputs", "disabled_inputs", "iterations", "prompt"}
TRAIN = {"destination", "destination_hardware", "train_timeout", "test_cases", "fuzz"}
PREDICT = {"compare_outputs", "predict_timeout", "test_cases", "fuzz"}
TOP = {"model", "test_model", "test_hardware", "predict", "train", "deployment", "dockerfile", "parallel", "fast_push"}
TOP |= {"use_cog_base_image", "ignore_schema_compatibility", "official_model"}
JQ = {  # the queries, in Python
    "length == 1": lambda output: len(output) == 1,
    "length == 2": lambda output: len(output) == 2,
    'has("weights")': lambda output: "weights" in output,
}


def cases(mode: str) -> list[dict[str, Any]]:
    return CONFIG[mode]["test_cases"]


def assert_holds(case: dict[str, Any], response: dict[str, Any]) -> None:
    """As the tool checks it; what only a language model can check is not."""
    if "error_contains" in case:
        assert response["status"] == "failed", response
        assert case["error_contains"] in response["error"]
        return
    assert response["status"] == "succeeded", response
    if "jq_query" in case:
        assert JQ[case["jq_query"]](response["output"])


def test_the_file_has_the_keys_that_the_tool_allows():
    assert CONFIG.keys() <= TOP
    assert CONFIG["predict"].keys() <= PREDICT
    assert CONFIG["train"].keys() <= TRAIN
    assert CONFIG["predict"]["fuzz"].keys() <= FUZZ
    for case in cases("predict") + cases("train"):
        assert len(case.keys() & CHECKS) == 1
        assert case.keys() - CHECKS == {"inputs"}
        assert all(isinstance(value, bool | int | float | str) for value in case["inputs"].values())


@pytest.mark.parametrize("case", cases("predict"), ids=range(len(cases("predict"))))
def test_a_case_of_a_prediction_holds(predict_server: Server, case: dict[str, Any]):
    assert_holds(case, post_prediction(predict_server, **case["inputs"]).body)


@pytest.mark.parametrize("case", cases("train"), ids=range(len(cases("train"))))
def test_a_case_of_a_training_holds(train_server: Server, case: dict[str, Any]):
    shorter = {} if "error_contains" in case else {"steps": 1, "resolution": "64"}  # on a CPU, as it is takes 20 s
    assert_holds(case, post_training(train_server, **{**case["inputs"], **shorter}).body)
