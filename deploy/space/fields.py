"""The fields of the page, from the signature of predict.py: help, defaults, bounds and choices. Generates nothing."""

from pathlib import Path
from typing import Any

import gradio as gr

import predict
from lora.serving.request import CUSTOM, MATCH
from script.cog_inputs import read_entry_point

INPUTS = {each.name: each for each in read_entry_point(Path(predict.__file__), "Runner.run").inputs}
LABELS = {
    "prompt": "Prompt",
    "negative_prompt": "Negative prompt",
    "lora_weights": "LoRA",
    "lora_scale": "Strength",
    "aspect_ratio": "Aspect ratio",
    "megapixels": "Megapixels",
    "num_inference_steps": "Steps",
    "guidance_scale": "Guidance",
}
HELP = {"aspect_ratio": "Of both images"}  # in place of descriptions that name inputs which the page does not have
NOT_OFFERED = (CUSTOM, MATCH)  # the page has no width and height, and takes no image
SLIDER_STEP = 0.05


def text_field(name: str, *, placeholder: str, lines: int = 1) -> gr.Textbox:
    """The field of a text among the inputs of `Runner.run`."""
    return gr.Textbox(label=LABELS[name], info=help_text(name), placeholder=placeholder, lines=lines, max_lines=6)


def setting_field(name: str, default: float | None = None) -> gr.Dropdown | gr.Slider:
    """The field of a choice or of a number with bounds; `default` is for an input whose signature has none."""
    settings: dict[str, Any] = INPUTS[name].settings
    value = default if settings.get("default") is None else settings["default"]
    if choices := [choice for choice in settings.get("choices", []) if choice not in NOT_OFFERED]:
        return gr.Dropdown(choices, value=value or choices[0], label=LABELS[name], info=help_text(name))
    step = 1 if INPUTS[name].kind.name == "int" else SLIDER_STEP
    return gr.Slider(settings["ge"], settings["le"], value, step=step, label=LABELS[name], info=help_text(name))


def help_text(name: str) -> str:
    """The description of an input, with the name that it has in the API and in the log."""
    return f"{HELP.get(name, INPUTS[name].settings['description'])} ({name})"
