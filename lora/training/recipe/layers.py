"""Which layers of the transformer get a LoRA: named sets, and patterns that a user typed. Knows no weights."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

import regex
import torch
from diffusers.models.modeling_utils import ModelMixin

from lora.base.family import Family
from lora.checks import check_text
from lora.dataset.wording import counted
from lora.formats.kohya import PREFIX, fused_layer
from lora.formats.shapes import Shape, linear_shapes

EVERY_LAYER = "all"
LAYERS_INPUT, REGEX_INPUT = "layers", "layers_to_optimize_regex"  # the names of the inputs
LONGEST_PATTERN = 512
MAX_GROUPS = 10  # each pair in `(?:(?:a)+)+` doubles the memory: 20 take 0.8 GB, 100 kill the process
# (?R), (?1), (?&name) and (?P>name) are recursive, which fills the memory before the time limit is reached
RECURSION = regex.compile(r"\(\?(?:R|[-+]?\d|&|P>)")
SEARCH_SECONDS, ALL_SECONDS = 1.0, 3.0
TOO_MUCH = (TimeoutError, MemoryError)
NOT_A_PATTERN = (regex.error, ValueError, RecursionError, OverflowError)  # ValueError: incompatible flags
SHOWN = 80  # characters of a pattern that an error message quotes

Matcher = Callable[[str, float], regex.Match[str] | None]  # takes a name and a timeout in seconds


@dataclass(frozen=True, slots=True)
class LayerSelection:
    """The chosen layers by their names without prefix, in the order of the model, and a note for the user."""

    shapes: Mapping[str, Shape]
    note: str

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the layers."""
        return tuple(self.shapes)


def block_layers(config: Mapping[str, Any], kind: type[ModelMixin]) -> dict[str, Shape]:
    """Every linear layer inside the blocks of a transformer of this class and config: 494 in FLUX.1. Loads nothing."""
    with torch.device("meta"):
        transformer = kind.from_config(dict(config))
    return {name: shape for name, shape in linear_shapes(transformer).items() if "transformer_blocks." in name}


def select_layers(
    shapes: Mapping[str, Shape], family: Family, *, layers: str, layers_to_optimize_regex: str | None
) -> LayerSelection:
    """Those of `shapes` that `layers` (the name of a set, or a pattern for whole names) or the other pattern matches.

    `layers_to_optimize_regex` is searched for anywhere in `transformer.<name>`, as ostris/flux-dev-lora-trainer does.
    Raises ValueError with one sentence if both are given, or if a pattern is invalid, matches nothing or takes too
    long.
    """
    pattern = check_text(REGEX_INPUT, layers_to_optimize_regex or "", at_most=LONGEST_PATTERN)
    names = tuple(shapes)
    if not pattern.strip():
        return _choice(shapes, family, _whole(names, family, layers), inside_numbers=[])
    if layers != EVERY_LAYER:
        raise ValueError(f"{REGEX_INPUT} and {LAYERS_INPUT} are both given: expected only one of them")
    matches = _searched(names, pattern)
    return _choice(shapes, family, tuple(matches), inside_numbers=_inside_numbers(matches))


def _whole(names: Sequence[str], family: Family, layers: str) -> tuple[str, ...]:
    typed = check_text(LAYERS_INPUT, layers, at_most=LONGEST_PATTERN)
    pattern = _compiled(LAYERS_INPUT, family.transformer.layer_sets.get(typed, typed))
    matches = _matches(
        LAYERS_INPUT,
        lambda name, seconds: (
            pattern.fullmatch(name, timeout=seconds) or pattern.fullmatch(PREFIX + name, timeout=seconds)
        ),
        names,
    )
    if not matches:
        expected = (
            f"expected {', '.join(family.transformer.layer_sets)}, or a regex for whole layer names such as {names[0]}"
        )
        raise ValueError(f"{LAYERS_INPUT} is {_shown(typed)}, which matches none of {len(names)} layers: {expected}")
    return tuple(matches)


def _searched(names: Sequence[str], typed: str) -> dict[str, regex.Match[str]]:
    pattern = _compiled(REGEX_INPUT, typed)
    matches = _matches(REGEX_INPUT, lambda name, seconds: pattern.search(PREFIX + name, timeout=seconds), names)
    if not matches:
        expected = f"expected a regex for layer names such as {PREFIX}{names[0]}"
        raise ValueError(f"{REGEX_INPUT} is {_shown(typed)}, which matches none of {len(names)} layers: {expected}")
    return matches


def _compiled(source: str, typed: str) -> regex.Pattern[str]:
    if RECURSION.search(typed):
        raise ValueError(f"{source} is {_shown(typed)}: expected a regex without recursion")
    if typed.count("(") > MAX_GROUPS:
        raise ValueError(f"{source} has {typed.count('(')} opening brackets: expected at most {MAX_GROUPS}")
    try:
        return regex.compile(typed)
    except NOT_A_PATTERN as error:
        raise ValueError(f"{source} is {_shown(typed)}: expected a valid regex ({error})") from error


def _matches(source: str, matcher: Matcher, names: Sequence[str]) -> dict[str, regex.Match[str]]:
    """The names that match. Must not take long, as it blocks Cog's health check and cancellation."""
    end = monotonic() + ALL_SECONDS
    found = {}
    for name in names:
        try:
            match = matcher(name, _seconds_until(end))
        except TOO_MUCH as error:
            raise ValueError(f"{source} takes too long to match {name}: expected a simpler regex") from error
        if match:
            found[name] = match
    return found


def _seconds_until(end: float) -> float:
    left = end - monotonic()
    if left <= 0:
        raise TimeoutError
    return min(left, SEARCH_SECONDS)


def _choice(
    shapes: Mapping[str, Shape], family: Family, chosen: tuple[str, ...], *, inside_numbers: list[str]
) -> LayerSelection:
    remarks = [f"LoRA on {len(chosen)} of {len(shapes)} layers", *inside_numbers, *_partial_groups(chosen, family)]
    return LayerSelection({name: shapes[name] for name in chosen}, "; ".join(remarks))


def _inside_numbers(matches: Mapping[str, regex.Match[str]]) -> list[str]:
    """A note on what surprises users of ostris/flux-dev-lora-trainer: `blocks.1` also matches blocks 10 to 19."""
    cut = [name for name, match in matches.items() if any(_cuts_number(match, edge) for edge in match.span())]
    return [f"{REGEX_INPUT} matches anywhere in a name, also inside numbers, as in {cut[0]}"] if cut else []


def _cuts_number(match: regex.Match[str], edge: int) -> bool:
    return match.string[edge - 1 : edge].isdigit() and match.string[edge : edge + 1].isdigit()


def _partial_groups(chosen: Sequence[str], family: Family) -> list[str]:
    """A note on blocks where only some layers are chosen of a group that is one fused layer in the original model, if
    there is a program that cannot load such a LoRA (trap 23)."""
    program = family.transformer.loads_whole_groups
    if program is None:
        return []
    fused = dict.fromkeys(fused_layer(name, family.layer_names) for name in chosen)
    partial = {_block(layer.parts[0]) for layer in fused if not set(layer.parts) <= set(chosen)}
    if not partial:
        return []
    example = next(_block(name) for name in chosen if _block(name) in partial)
    return [
        f"{counted(len(partial), 'block')} with only some of to_q, to_k, to_v (and proj_mlp in single blocks), such "
        f"as {example}: {program} cannot load such a LoRA, but diffusers and ComfyUI can"
    ]


def _block(name: str) -> str:
    return ".".join(name.split(".")[:2])


def _shown(typed: str) -> str:
    return repr(typed if len(typed) <= SHOWN else f"{typed[:SHOWN]}...")
