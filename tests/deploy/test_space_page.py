"""The page of the Space in this process: what it asks of the predictor, and what it shows."""

import importlib
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from safetensors.torch import save_file

from deploy.space.base_settings import base_settings
from deploy.space.cancellations import Cancellations
from deploy.space.card import LoraCard
from deploy.space.generation import Comparer, Comparison, Step
from lora.serving.request import SIZES
from predict import Runner
from tests.families import FIRST, KLEIN
from tests.tiny import TINY_FLUX, assert_one_sentence, random_lora, tiny_pipeline
from weights.bases import Base, model_of

SETTINGS = {"aspect_ratio": "1:1", "megapixels": "0.25", "num_inference_steps": 3, "guidance_scale": 3.5}


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    path = tmp_path_factory.mktemp("lora") / "lora.safetensors"
    save_file(random_lora(tiny_pipeline().transformer, spread=0.1), path)
    return str(path)


@contextmanager
def a_runner(tmp_path_factory, base):
    """The predictor creates a temporary folder for itself, and keeps it until the process ends."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("t")))
        patch.setenv("FLUX_BASE", base)
        patch.setenv("FLUX_SAFETY", "off")
        runner = Runner()
        runner.setup()
        yield runner


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    with a_runner(tmp_path_factory, "tiny") as runner:
        yield runner


@pytest.fixture(scope="module")
def klein_runner(tmp_path_factory):
    with a_runner(tmp_path_factory, "tiny-flux2") as runner:
        yield runner


@pytest.fixture
def inputs(lora):
    """The inputs of a request with a LoRA of its own."""
    return {"prompt": "a red star", "lora_weights": lora, "lora_scale": 2.0, "seed": 7, **SETTINGS}


@pytest.fixture(scope="module")
def page_requests():
    """The module, whose import of gradio takes seconds: only the worker that runs these tests needs it."""
    return importlib.import_module("deploy.space.page_requests")


def requests_to(runner, page_requests, *, has_own_lora):
    of_base = model_of(runner.base)
    return page_requests.PageRequests(Comparer(runner).compare, has_own_lora, of_base, Cancellations())


@pytest.fixture
def requests(runner, page_requests):
    return requests_to(runner, page_requests, has_own_lora=False)


def file_of(runner, **inputs):
    (path,) = runner.run(**inputs)
    return path.read_bytes()


def shown_by(requests, inputs):
    """What the page shows, and the contents of the files of each; they are gone when it goes on."""
    return [
        (shown, [Path(file).read_bytes() for file in shown.files or ()]) for shown in requests.generate(inputs, "me")
    ]


def test_both_images_are_those_of_the_predictor_with_the_same_seed(runner, requests, inputs):
    *steps, (shown, files) = shown_by(requests, inputs)
    assert files == [file_of(runner, **{**inputs, "lora_scale": 0.0}), file_of(runner, **inputs)]
    assert files[0] != files[1]
    settings = "Seed **7** · Strength **2** · Steps **3** · Guidance **3.5** · Size **64 x 64** · Base **tiny**"
    assert (shown.text, shown.seed) == (f"{settings}\n\n`a red star`", 7)
    expected = [f"Image {image} the LoRA: step {step} of 3" for image in ("without", "with") for step in (1, 2, 3)]
    assert [shown.text for shown, _ in steps] == expected


def test_a_step_that_computes_the_transformer_twice_is_one_step(klein_runner):
    """As with the classifier-free guidance of FLUX.2 [klein]."""
    *steps, _ = Comparer(klein_runner).compare({"prompt": "a red star", "seed": 7, **SETTINGS})
    assert steps == [Step(image, number) for image in ("without", "with") for number in (1, 2, 3)]


def test_a_negative_prompt_leads_both_images_away_and_is_shown(klein_runner, page_requests, lora):
    requests = requests_to(klein_runner, page_requests, has_own_lora=True)
    inputs = {"prompt": "a red star", "seed": 7, **SETTINGS}
    (*_, (plain, bare)), (*_, (shown, files)) = (
        shown_by(requests, {**inputs, "negative_prompt": text}) for text in ("", "a blue heart")
    )
    assert not {*bare} & {*files}
    assert shown.text == f"{plain.text}\n\nwithout `a blue heart`"
    assert "Base **tiny-flux2**" in shown.text
    without_lora = requests_to(klein_runner, page_requests, has_own_lora=False)
    with pytest.raises(page_requests.gr.Error) as error:
        list(without_lora.generate({**inputs, "lora_weights": lora}, "me"))
    assert_one_sentence(error.value.message, "lora_weights", "it was made for FLUX.1")


def test_a_random_seed_is_the_same_for_both_images_and_can_be_repeated(requests, inputs):
    *_, (shown, files) = shown_by(requests, {**inputs, "seed": None})
    assert shown.seed is not None
    assert f"Seed **{shown.seed}**" in shown.text
    *_, (_, again) = shown_by(requests, {**inputs, "seed": shown.seed})
    assert files == again


def test_a_cancelled_generation_ends_at_its_next_step_and_the_next_one_is_whole(runner, inputs):
    comparer = Comparer(runner)
    cancelled = comparer.compare({**inputs, "num_inference_steps": 50})
    assert [next(cancelled), next(cancelled)] == [Step("without", 1), Step("without", 2)]
    cancelled.close()
    assert not [thread for thread in threading.enumerate() if "ThreadPoolExecutor" in thread.name]
    *_, last = comparer.compare(inputs)
    assert isinstance(last, Comparison)
    assert last.after == file_of(runner, **inputs)
    assert runner.healthcheck()


def test_a_visitor_cancels_only_the_own_request_and_also_while_it_waits(requests, inputs):
    shown = requests.generate(inputs, "me")
    assert next(shown).text == "Image without the LoRA: step 1 of 3"
    assert not requests.cancellations.cancel("somebody else")
    assert next(shown).text == "Image without the LoRA: step 2 of 3"
    assert requests.cancellations.cancel("me")
    assert [each.text for each in shown] == ["Cancelled."]
    assert not requests.cancellations.cancel("me"), "it has ended"
    requests.cancellations.begin("me")
    requests.cancellations.cancel("me")
    is_not_fetched = inputs | {"lora_weights": "none.tar"}
    assert [each.text for each in requests.generate(is_not_fetched, "me")] == ["Cancelled."]


def test_one_comparison_runs_at_a_time(runner, inputs):
    comparer, begun = Comparer(runner), threading.Event()
    first = comparer.compare(inputs)
    next(first)

    def second():
        next(comparer.compare(inputs))
        begun.set()

    waiting = threading.Thread(target=second, daemon=True)
    waiting.start()
    assert not begun.wait(0.3)
    list(first)
    assert begun.wait(20)
    waiting.join(20)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"lora_weights": " "}, "lora_weights is empty: expected a LoRA on Hugging Face"),
        ({"lora_weights": "<b>.tar"}, "lora_weights '&lt;b>.tar' does not exist"),
        ({"lora_weights": "/etc/passwd.tar"}, "is outside of the folders that requests may read"),
        ({"lora_scale": 3.1}, "lora_scale is 3.1: expected a number from -1 to 3"),
        ({"prompt": "x" * 10_001}, "prompt has 10001 characters"),
        ({"seed": 0.5}, "seed is 0.5: expected a whole number"),
        ({"num_inference_steps": 51}, "num_inference_steps is 51: expected 1 to 50"),
    ],
)
def test_an_error_is_a_message_of_one_sentence(requests, page_requests, inputs, change, sentence):
    with pytest.raises(page_requests.gr.Error) as error:
        list(requests.generate({**inputs, **change}, "me"))
    assert_one_sentence(error.value.message, sentence)
    assert not error.value.print_exception


def fields_of(requests, *arguments):
    """The fields of the page by their labels."""
    page = importlib.import_module("deploy.space.page").page_of(requests, *arguments)
    return {block.label: block for block in page.blocks.values() if getattr(block, "label", None)}


def base_in(folder):
    """The settings of the base in a folder, which is not loaded."""
    return base_settings(Base("mine", folder, remedy=""))


def test_the_fields_have_the_bounds_and_defaults_of_the_signature(requests):
    fields = fields_of(requests, "hf://me/my-lora", LoraCard("TOK", ("TOK on a beach",)), base_in(TINY_FLUX))
    strength, steps = fields["Strength"], fields["Steps"]
    assert (strength.minimum, strength.maximum, strength.value) == (-1, 3, 1)
    assert "(lora_scale)" in strength.info
    assert (steps.minimum, steps.maximum) == (1, 50)
    assert fields["Aspect ratio"].value == "1:1"
    assert fields["Prompt"].placeholder == "a photo of TOK"
    assert fields["Prompts of the LoRA's card"].raw_samples == [["TOK on a beach"]]
    assert "LoRA" not in fields


# Of each kind of base its defaults, None for a setting that has no effect, and whether it takes a negative prompt.
@pytest.mark.parametrize(
    ("tiny", "changes", "steps", "guidance", "takes_negative"),
    [
        (FIRST, {}, 28, 3.5, False),
        (FIRST, {"guidance_embeds": False}, 4, None, False),
        (KLEIN, {}, 50, 4, True),
        (KLEIN, {"is_distilled": True}, 4, None, False),
    ],
)
def test_the_page_has_the_settings_and_defaults_of_its_base_and_names_it(
    requests, tmp_path, tiny, changes, steps, guidance, takes_negative
):
    file = "model_index.json" if "is_distilled" in changes else "transformer/config.json"
    base = base_in(tiny.changed(tmp_path / "base", file, **changes))
    fields = fields_of(requests, "hf://me/my-lora", LoraCard(), base)
    assert fields["Steps"].value == steps
    assert ("Guidance" in fields) is (guidance is not None)
    assert guidance is None or fields["Guidance"].value == guidance
    assert ("Negative prompt" in fields) is takes_negative
    introduction = importlib.import_module("deploy.space.page").introduction("hf://me/my-lora", base)
    assert introduction.endswith(f"on the base mine, a {tiny.family.name}.")


def test_every_aspect_ratio_that_the_page_offers_can_be_generated_and_its_help_names_no_input_that_is_not_there(
    requests,
):
    field = fields_of(requests, "hf://me/my-lora", LoraCard(), base_in(TINY_FLUX))["Aspect ratio"]
    assert {value for _, value in field.choices} == SIZES.keys()
    assert field.info == "Of both images (aspect_ratio)"


def test_a_page_without_a_lora_has_a_field_for_one(requests):
    fields = fields_of(requests, "", LoraCard(), base_in(TINY_FLUX))
    assert "data URI" in fields["LoRA"].info
    assert not fields["Prompts of the LoRA's card"].visible
