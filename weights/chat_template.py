"""The chat template of a tokenizer: prompts become messages of a chat by it. Checked without its tokenizer."""

from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from weights.printed import message_of

CHAT_TEMPLATE = "chat_template.jinja"  # beside a tokenizer of transformers, which also reads it from the configuration
DEFAULT = "default"  # among several in the configuration
TEXT = "a photo of a lighthouse"
EXPECTED = "expected the template of the published model"
# What transformers, Jinja and a template's own expressions raise.
FAILURES = (
    TemplateError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    RuntimeError,
    ArithmeticError,
    ImportError,
)


def check_chat_template(folder: Path, config_file: Path, config: dict[str, Any]) -> None:
    """Check that a prompt passes through the template of the tokenizer in a folder; `config` is its configuration.

    Raises FileNotFoundError without a template, and ValueError for an empty or a damaged one, and for one that leaves
    the prompt out, with a sentence that starts with the path of the file or the folder.
    """
    file, named = folder / CHAT_TEMPLATE, _named_template(config.get("chat_template"))
    if not file.is_file() and named is None:
        raise FileNotFoundError(
            f"{folder} has no chat template: expected {CHAT_TEMPLATE}, or chat_template in {config_file.name}"
        )
    if file.is_file():  # transformers prefers it
        _check(str(file), _text_of(file), config)
    else:
        _check(f"{config_file} has a chat_template that", str(named), config)


def _named_template(found: object) -> object | None:
    """The default template in a configuration: the only one, or the one of several that has this name; None without
    one."""
    if isinstance(found, list):
        by_name = {each.get("name"): each.get("template") for each in found if isinstance(each, dict)}
        return by_name.get(DEFAULT) or None
    return found.get(DEFAULT) or None if isinstance(found, dict) else found or None


def _text_of(file: Path) -> str:
    content = file.read_bytes()
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is damaged: found {len(content):,} bytes that are no UTF-8, {EXPECTED}") from error


def _check(subject: str, template: str, config: dict[str, Any]) -> None:
    if not template.strip():
        raise ValueError(f"{subject} is empty: {EXPECTED}")
    try:
        is_used = TEXT in _rendered(template, config)
    except FAILURES as error:
        raise ValueError(f"{subject} is damaged ({message_of(error)}): {EXPECTED}") from error
    if not is_used:
        raise ValueError(f"{subject} leaves the prompt out: {EXPECTED}")


def _rendered(template: str, config: dict[str, Any]) -> str:
    """A prompt as transformers' `apply_chat_template` passes it to the tokenizer."""
    from transformers.utils.chat_template_utils import render_jinja_template  # noqa: PLC0415 - only these bases need it

    special = {name: value for name, value in config.items() if name.endswith("_token") and isinstance(value, str)}
    (text,), _ = render_jinja_template(
        [[{"role": "user", "content": TEXT}]],
        chat_template=template,
        add_generation_prompt=True,
        enable_thinking=False,
        **special,
    )
    return str(text)
