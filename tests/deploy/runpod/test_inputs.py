"""A job's inputs are checked as Cog's server checks them, by the signatures of predict.py and train.py."""

import pytest

from deploy.runpod.inputs import Form
from script.cog_server import ROOT
from tests.tiny import assert_one_sentence

PREDICT, TRAIN = (ROOT / "predict.py", "Runner.run"), (ROOT / "train.py", "train")
GENERATION = Form.of(PREDICT, other=TRAIN, advice="it generates images; an endpoint with FLUX_TASK=train trains")
TRAINING = Form.of(TRAIN, other=PREDICT, advice="it trains; an endpoint with FLUX_TASK=generate generates images")
OF_OTHER_TYPES = {"bool": "yes", "int": 1.5, "float": "0.5", "str": 5, "Path": 5, "Secret": 5}
PROMPT = {"prompt": "a red star"}


def wrong_values():
    """For each input of both forms: a value of another type, one beyond each bound, one that is no choice."""
    for form in (GENERATION, TRAINING):
        for name, each in form.inputs.items():
            settings = each.settings
            wrong = OF_OTHER_TYPES[each.kind.name]
            yield form, name, [wrong] if each.kind.repeated else wrong
            yield from (
                (form, name, settings[bound] + off) for bound, off in (("ge", -1), ("le", 1)) if bound in settings
            )
            yield from ((form, name, value) for value in ["none of these"] if "choices" in settings)
            if each.kind.name in ("int", "float"):
                yield form, name, True
            if each.kind.repeated:
                yield form, name, "not a list"


def test_every_value_that_the_signature_forbids_is_refused_with_the_name_of_its_input():
    count = 0
    for form, name, value in wrong_values():
        with pytest.raises(ValueError) as error:
            form.checked({**(PROMPT if form is GENERATION else {}), name: value})
        assert_one_sentence(error.value, f"{name} is ", "expected")
        count += 1
    assert count > 150


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_json_cannot_hold_is_refused(value):
    with pytest.raises(ValueError, match=r"learning_rate is (nan|inf): expected a number"):
        TRAINING.checked({"learning_rate": value})


@pytest.mark.parametrize("name", ["learning_rate", "batch_size", "seed"])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_whole_number_that_no_float_holds_is_refused_or_kept_and_never_ends_the_worker(name, sign):
    huge = sign * 10**400
    if TRAINING.inputs[name].kind.name == "float" or (sign < 0 and name == "batch_size"):
        with pytest.raises(ValueError, match=f"{name} is a huge number: expected"):
            TRAINING.checked({name: huge})
    else:
        assert TRAINING.checked({name: huge})[name] == huge


def test_missing_and_null_inputs_have_the_defaults_of_the_signature():
    inputs = GENERATION.checked({**PROMPT, "num_outputs": None})
    assert list(inputs) == list(GENERATION.inputs)
    assert (inputs["num_outputs"], inputs["lora_scale"], inputs["loras"], inputs["seed"]) == (1, 1.0, [], None)
    assert TRAINING.checked({})["steps"] == 1000


def test_whole_numbers_may_be_written_with_a_point_and_values_within_the_bounds_are_kept():
    assert TRAINING.checked({"steps": 500.0, "hf_token": " hf_x "})["steps"] == 500
    assert TRAINING.checked({"hf_token": " hf_x "})["hf_token"] == "hf_x"
    assert GENERATION.checked({**PROMPT, "lora_scale": -1, "output_format": "png"})["lora_scale"] == -1.0


@pytest.mark.parametrize(
    ("form", "given", "fragments"),
    [
        (GENERATION, {}, ["prompt is missing: expected text"]),
        (GENERATION, {"prompt": None}, ["prompt is missing"]),
        (GENERATION, {"promt": "a"}, ["promt is not an input: expected prompt"]),
        (
            GENERATION,
            {**PROMPT, "input_images": "x"},
            ["input_images is not an input of this worker", "FLUX_TASK=train"],
        ),
        (TRAINING, {"prompt": "a"}, ["prompt is not an input of this worker", "FLUX_TASK=generate"]),
        (TRAINING, {"trigger": "TOK"}, ["trigger is not an input: expected trigger_word"]),
        (
            GENERATION,
            "a red star",
            ["input is 'a red star': expected inputs by their names", '{"input": {"prompt": "..."}}'],
        ),
        (GENERATION, ["a"], ["input is ['a']", "expected inputs by their names"]),
        (GENERATION, None, ["input is None", "expected inputs by their names"]),
    ],
)
def test_what_is_no_input_is_refused_with_the_nearest_one(form, given, fragments):
    with pytest.raises(ValueError) as error:
        form.checked(given)
    assert_one_sentence(error.value, *fragments)


def test_a_secret_of_another_type_is_not_repeated():
    with pytest.raises(ValueError, match="hf_token is of type list: expected text") as error:
        TRAINING.checked({"hf_token": ["hf_secret"]})
    assert "hf_secret" not in str(error.value)
