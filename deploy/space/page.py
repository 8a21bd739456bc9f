"""The page: its fields, buttons and examples. Generates nothing itself."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from deploy.space.base_settings import BaseSettings
from deploy.space.card import LoraCard, hub_repository, published_card
from deploy.space.fields import setting_field, text_field
from deploy.space.page_requests import PageRequests
from lora.publishing.card import code_span

SHAPE = ("aspect_ratio", "megapixels")
SECONDS_KEPT = 3600  # until the file of an image is deleted, and between two deletions
CSS = """
.gradio-container > .main { width: 100% !important; max-width: 1180px !important; margin: 0 auto !important; }
#images { min-height: 20rem; }
"""
FONT = ("system-ui", "sans-serif")
AT_ONCE: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}  # no generation
LOOK: dict[str, Any] = {
    "theme": gr.themes.Default(primary_hue="indigo", neutral_hue="slate", font=FONT),
    "css": CSS,
    "ssr_mode": False,  # needs Node
    "run_history": False,
    "footer_links": ["api", "gradio"],
}
CANCELLING = "Cancelling: the generation ends at its next step."
HINT = "On the left the image without the LoRA, on the right with it, from the same seed: move the slider to compare."


@dataclass(frozen=True, slots=True)
class Fields:
    """What events of the page read and write."""

    lora: gr.Textbox | gr.State  # a state without a value if the deployment names the LoRA
    trigger: gr.Markdown
    prompt: gr.Textbox
    examples: gr.Dataset
    settings: Mapping[str, Component]  # by the names of inputs
    is_random: gr.Checkbox
    seed: gr.Number
    cancel: gr.Button
    start: gr.Button


def page_of(requests: PageRequests, reference: str, card: LoraCard, base: BaseSettings) -> gr.Blocks:
    """The page for the LoRA that the deployment names, or with a field for one if `reference` is empty."""
    lifetime = (SECONDS_KEPT, SECONDS_KEPT)
    with gr.Blocks(title=_name(reference), analytics_enabled=False, delete_cache=lifetime) as page:
        gr.Markdown(introduction(reference, base))
        with gr.Row():
            with gr.Column():
                fields = _fields(card, base, has_own_lora=bool(reference))
            with gr.Column():
                label = "Left without the LoRA, right with it"
                images = gr.ImageSlider(label=label, elem_id="images", interactive=False)
                result = gr.Markdown(HINT, elem_id="result")
        _connect(requests, fields, images, result)
    return page


def _fields(card: LoraCard, base: BaseSettings, *, has_own_lora: bool) -> Fields:
    lora = gr.State(None) if has_own_lora else text_field("lora_weights", placeholder="hf://owner/name")
    trigger = gr.Markdown(trigger_line(card), visible=bool(card.trigger_word))
    prompt = text_field("prompt", placeholder=placeholder_of(card), lines=2)
    examples = _examples(card)
    strength = setting_field("lora_scale")
    with gr.Row():
        is_random = gr.Checkbox(True, label="Random seed", info="Another seed each time", min_width=160)
        seed = gr.Number(precision=0, label="Seed", info="The same for both images (seed)", min_width=160)
    with gr.Accordion("More settings", open=False):
        more = dict(_more_settings(base))
    with gr.Row():
        cancel = gr.Button("Cancel", min_width=80, scale=1)
        start = gr.Button("Generate", variant="primary", min_width=120, scale=3)
    return Fields(lora, trigger, prompt, examples, {"lora_scale": strength, **more}, is_random, seed, cancel, start)


def _more_settings(base: BaseSettings) -> Iterator[tuple[str, Component]]:
    """The fields that few people change, by the names of inputs; only those that have an effect with the base."""
    for name in SHAPE:
        yield name, setting_field(name)
    yield "num_inference_steps", setting_field("num_inference_steps", base.defaults.steps)
    if base.takes_guidance:
        yield "guidance_scale", setting_field("guidance_scale", base.defaults.guidance)
    if base.takes_negative:
        yield "negative_prompt", text_field("negative_prompt", placeholder="what the image should not show")


def _connect(requests: PageRequests, fields: Fields, images: gr.ImageSlider, result: gr.Markdown) -> None:
    asked = gr.on([fields.start.click, fields.prompt.submit], _beginning(requests), **AT_ONCE)
    asked.then(
        _generating(requests, tuple(fields.settings)),
        [fields.lora, fields.prompt, fields.is_random, fields.seed, *fields.settings.values()],
        [images, result, fields.seed],
        api_name="generate",
        concurrency_limit=1,
        show_progress="minimal",
    )
    fields.cancel.click(_cancelling(requests), None, result, **AT_ONCE)
    fields.examples.click(lambda sample: sample[0], fields.examples, fields.prompt, **AT_ONCE)
    if isinstance(fields.lora, gr.Textbox):
        updated = [fields.trigger, fields.prompt, fields.examples]
        gr.on([fields.lora.submit, fields.lora.blur], _card_updates, fields.lora, updated, **AT_ONCE)


def _generating(requests: PageRequests, names: tuple[str, ...]) -> Callable[..., Iterator[Any]]:
    """The function that fills the slider, the text under it and the seed."""

    def generate(
        request: gr.Request, lora: str | None, prompt: str, is_random: bool, seed: float | None, *values: object
    ) -> Iterator[Any]:
        inputs = dict(zip(names, values, strict=True))
        inputs |= {"lora_weights": lora, "prompt": prompt, "seed": None if is_random else seed}
        for shown in requests.generate(inputs, _session(request)):
            yield shown.files or gr.skip(), shown.text, gr.skip() if shown.seed is None else shown.seed

    return generate


def _beginning(requests: PageRequests) -> Callable[[gr.Request], None]:
    def begin(request: gr.Request) -> None:
        requests.cancellations.begin(_session(request))

    return begin


def _cancelling(requests: PageRequests) -> Callable[[gr.Request], Any]:
    def cancel(request: gr.Request) -> Any:  # noqa: ANN401 (a text, or gradio's update that changes nothing)
        return CANCELLING if requests.cancellations.cancel(_session(request)) else gr.skip()

    return cancel


def _session(request: gr.Request) -> str:
    return request.session_hash or ""


def _card_updates(reference: str) -> tuple[Any, Any, Any]:
    """What a visitor's LoRA changes: the line about its trigger word, the prompt's placeholder, the examples."""
    card = published_card(reference, token="")
    return (
        gr.Markdown(trigger_line(card), visible=bool(card.trigger_word)),
        gr.Textbox(placeholder=placeholder_of(card)),
        gr.Dataset(samples=[[text] for text in card.prompts], visible=bool(card.prompts)),
    )


def _examples(card: LoraCard) -> gr.Dataset:
    return gr.Dataset(
        label="Prompts of the LoRA's card",
        components=[gr.Textbox(visible=False)],
        samples=[[text] for text in card.prompts],
        visible=bool(card.prompts),
    )


def trigger_line(card: LoraCard) -> str:
    """What to do with the trigger word."""
    return f"Trigger word: {code_span(card.trigger_word)}. Write it into the prompt, spelled like this."


def placeholder_of(card: LoraCard) -> str:
    """An example of a prompt."""
    return f"a photo of {card.trigger_word}" if card.trigger_word else "a photo of a lighthouse"


def _name(reference: str) -> str:
    return hub_repository(reference).rpartition("/")[2] or "FLUX with a LoRA"


def introduction(reference: str, base: BaseSettings) -> str:
    """What the page generates with."""
    repository = hub_repository(reference)
    link = f"[{repository}](https://huggingface.co/{repository})" if repository else "a LoRA"
    return f"# {_name(reference)}\nThe same image without and with {link}, on the base {base.name}, a {base.model}."
