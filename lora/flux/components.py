"""The models that FLUX consists of beside its transformer, each loaded from its folder; one that
its files do not fill is refused."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers.utils.logging
import torch
import transformers.utils.logging
from diffusers import AutoencoderKL
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer, PreTrainedModel, T5EncoderModel, T5Tokenizer

from lora.flux.placement import CLIP, T5, VAE

CLASSES: dict[str, Any] = {
    CLIP: CLIPTextModel,
    T5: T5EncoderModel,
    VAE: AutoencoderKL,
}
CLIP_TOKENIZER, T5_TOKENIZER = "tokenizer", "tokenizer_2"
TOKENIZERS: dict[str, Any] = {CLIP_TOKENIZER: CLIPTokenizer, T5_TOKENIZER: T5Tokenizer}
SAMPLE = 4096  # of a tensor's numbers are looked at: a broken merge spoils all of them
LONGEST_REASON = 160  # of what a library says: further on it is advice to those who wrote the program
# what libraries raise at configs and files that they did not expect
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
    """What a library raises here becomes a ValueError with one sentence that begins with the folder."""
    try:
        yield
    except (_UnfitError, MemoryError):
        raise
    except FAILURES as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST_REASON]
        raise ValueError(f"{folder} cannot be loaded ({reason}): expected it as FLUX.1 is published") from error


def load_components(base: Path, names: Iterable[str], *, dtype: torch.dtype) -> dict[str, nn.Module]:
    """Models of a folder in diffusers layout, in host memory, by their names there.

    Raises ValueError with one sentence that begins with the folder of the part if it cannot be loaded, lacks a tensor,
    holds one that its config has no place for, or holds numbers that are none.
    """
    _hide_progress_bars()
    return {name: _part(base / name, dtype) for name in names}


def load_tokenizers(base: Path) -> dict[str, Any]:
    """By their names there; raises ValueError with one sentence that begins with the folder of one."""
    return {name: load_tokenizer(base, name) for name in TOKENIZERS}


def load_tokenizer(base: Path, name: str) -> Any:  # noqa: ANN401 (CLIP's and T5's have no common type)
    """One of them; raises ValueError as `load_tokenizers` does."""
    with wrap_loading_errors(base / name):
        tokenizer = TOKENIZERS[name].from_pretrained(base / name, local_files_only=True)
        length = tokenizer.model_max_length
        if type(length) is not int or length < 1:
            raise _UnfitError(f"{base / name} says model_max_length {length!r}: expected a number of tokens, 1 or more")
    return tokenizer


class _UnfitError(ValueError):
    """A part that loads, and is not what its config says."""


def _part(folder: Path, dtype: torch.dtype) -> nn.Module:
    kind = CLASSES[folder.name]
    # transformers tells of shapes only in the report, and only if they are to be ignored; diffusers raises
    shapes = {"ignore_mismatched_sizes": True} if issubclass(kind, PreTrainedModel) else {}
    with wrap_loading_errors(folder):
        model, report = kind.from_pretrained(
            folder, dtype=dtype, output_loading_info=True, use_safetensors=True, local_files_only=True, **shapes
        )
        _check_report(folder, model, report)
        _check_numbers(folder, model)
        if isinstance(model, AutoencoderKL):
            _check_scale(folder, model)
    return model


def _check_report(folder: Path, model: nn.Module, report: dict[str, Any]) -> None:
    """What the library itself tolerates or ties together is not in the report."""
    for name, found, expected in report["mismatched_keys"]:
        raise _UnfitError(f"{folder} holds {name} of shape {list(found)}: expected {list(expected)}")
    if missing := report["missing_keys"]:
        raise _UnfitError(f"{folder} has no tensor {min(missing)}: expected {len(missing)} more, by its config.json")
    if foreign := _foreign(model, report["unexpected_keys"]):
        raise _UnfitError(
            f"{folder} holds the tensor {min(foreign)}, one of {len(foreign)} that its config.json has no place for:"
            " expected a config and weights that belong together"
        )


def _foreign(model: nn.Module, unexpected: Iterable[str]) -> list[str]:
    """Files of text encoders may hold more, such as the half of CLIP that sees images; but no more of the same."""
    if not isinstance(model, PreTrainedModel):
        return list(unexpected)
    own = {re.sub(r"\d+", "0", name) for name in model.state_dict()}
    return [name for name in unexpected if re.sub(r"\d+", "0", name) in own]


def _check_numbers(folder: Path, model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if not is_sample_finite(parameter.detach()):
            raise _UnfitError(f"{folder} holds {name}, where infinite or no numbers are: expected weights")


def is_sample_finite(tensor: Tensor) -> bool:
    """Whether a tensor begins with finite ones."""
    return bool(tensor.flatten()[:SAMPLE].isfinite().all())


def _check_scale(folder: Path, vae: AutoencoderKL) -> None:
    for name in ("scaling_factor", "shift_factor"):
        if not isinstance(value := vae.config[name], int | float):
            raise _UnfitError(f"{folder / 'config.json'} says {name} {value!r}: expected a number")


def _hide_progress_bars() -> None:
    """They fill a log with lines that nobody reads; ours says what matters."""
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
