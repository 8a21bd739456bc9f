"""Load the components of a base other than its transformer, each from its folder; refuse files that do not match their
config."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers.utils.logging
import torch
import transformers.utils.logging
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lora.base.family import VAE, Components

SAMPLE = 4096  # values checked per tensor: in a broken merge, all values are NaN
LONGEST_REASON = 160  # characters of a library's message: what follows is advice for programmers
# What libraries raise for unexpected configs and files.
FAILURES = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    RuntimeError,
    ArithmeticError,
    AssertionError,
    ImportError,
    SafetensorError,
)


@contextmanager
def wrap_loading_errors(folder: Path) -> Iterator[None]:
    """Turn a library's error into a ValueError with one sentence that begins with the folder."""
    try:
        yield
    except (ComponentError, MemoryError):
        raise
    except FAILURES as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST_REASON]
        raise ValueError(f"{folder} cannot be loaded ({reason}): expected the files as published") from error


def load_components(
    base: Path, names: Iterable[str], components: Components, *, dtype: torch.dtype
) -> dict[str, nn.Module]:
    """Load models from a folder in diffusers layout into host memory, keyed by the names of their subfolders.

    Raises ValueError with one sentence that begins with the component's folder if it cannot be loaded, lacks a tensor,
    holds a tensor that its config does not describe, or holds numbers that are not finite.
    """
    _hide_progress_bars()
    return {name: _load_component(base / name, components, dtype) for name in names}


def load_tokenizers(base: Path, components: Components) -> dict[str, Any]:
    """Load all tokenizers, keyed by the names of their subfolders. Raises as `load_tokenizer` does."""
    return {name: load_tokenizer(base / name, kind) for name, kind in components.tokenizers.items()}


def load_tokenizer(folder: Path, kind: type[PreTrainedTokenizerBase]) -> Any:  # noqa: ANN401 (each kind has its own)
    """Load one tokenizer; raises ValueError with one sentence that begins with its folder."""
    with wrap_loading_errors(folder):
        tokenizer = kind.from_pretrained(folder, local_files_only=True)
        length = tokenizer.model_max_length
        if type(length) is not int or length < 1:
            raise ComponentError(f"{folder} has model_max_length {length!r}: expected a positive number of tokens")
    return tokenizer


class ComponentError(ValueError):
    """A component that can be loaded but does not match its config."""


def _load_component(folder: Path, components: Components, dtype: torch.dtype) -> nn.Module:
    kind: Any = components.models[folder.name]
    # transformers reports mismatched shapes only if it is to ignore them; diffusers raises
    shapes = {"ignore_mismatched_sizes": True} if issubclass(kind, PreTrainedModel) else {}
    with wrap_loading_errors(folder):
        model, report = kind.from_pretrained(
            folder, dtype=dtype, output_loading_info=True, use_safetensors=True, local_files_only=True, **shapes
        )
        _check_report(folder, model, report)
        _check_finite(folder, model)
        if folder.name == VAE:
            components.check_vae(folder, model)
    return model


def _check_report(folder: Path, model: nn.Module, report: dict[str, Any]) -> None:
    """Refuse tensors that are missing, unknown or of another shape; the report omits what the library itself tolerates
    or ties together."""
    for name, found, expected in report["mismatched_keys"]:
        raise ComponentError(f"{folder} has {name} of shape {list(found)}: expected {list(expected)}")
    if missing := report["missing_keys"]:
        raise ComponentError(
            f"{folder} has no tensor {min(missing)}: expected {len(missing)} more according to its config.json"
        )
    if unknown := _unknown_tensors(model, report["unexpected_keys"]):
        raise ComponentError(
            f"{folder} has the tensor {min(unknown)}, one of {len(unknown)} that do not match its config.json:"
            " expected the weights and the config.json of the same model"
        )


def _unknown_tensors(model: nn.Module, unexpected: Iterable[str]) -> list[str]:
    """Files of text encoders may hold more, such as CLIP's image encoder, but no additional layers of the encoder."""
    if not isinstance(model, PreTrainedModel):
        return list(unexpected)
    own = {re.sub(r"\d+", "0", name) for name in model.state_dict()}
    return [name for name in unexpected if re.sub(r"\d+", "0", name) in own]


def _check_finite(folder: Path, model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if not is_sample_finite(parameter.detach()):
            raise ComponentError(f"{folder} has NaN or infinity in {name}: expected finite weights")


def is_sample_finite(tensor: Tensor) -> bool:
    """Whether the first numbers of a tensor, `SAMPLE` of them, are finite."""
    return bool(tensor.flatten()[:SAMPLE].isfinite().all())


def _hide_progress_bars() -> None:
    """Progress bars fill a log with lines that nobody reads; our own log reports what matters."""
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
