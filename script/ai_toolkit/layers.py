"""The layers that a job trains, as a regex to search in names such as `transformer.transformer_blocks.0.ff.net.2`.

ai-toolkit trains a layer whose name contains one of `only_if_contains` and none of `ignore_if_contains`
(toolkit/lora_special.py). The public trainer writes there the full name of each layer that its regex matched, up to 494
of them, which is longer than a regex may be here; so names that differ only in the block are put together.
"""

import re
from collections import defaultdict
from collections.abc import Sequence

BLOCK = re.compile(r"(.*?blocks\.)(\d+)\.(.+)", re.DOTALL)


def layers_regex(only: Sequence[str], ignored: Sequence[str]) -> str:
    """The regex for these parts of names; with the first empty, for all layers but the ignored ones."""
    inside = "|".join(_alternatives(only))
    if not ignored:
        return inside
    return f"^(?!.*({'|'.join(_alternatives(ignored))})).*({inside})"


def _alternatives(words: Sequence[str]) -> list[str]:
    blocks: dict[tuple[str, str], list[str]] = defaultdict(list)
    plain = []
    for word in dict.fromkeys(word.replace("$$", ".") for word in words):
        found = BLOCK.fullmatch(word)
        if found:
            blocks[found[1], found[3]].append(found[2])
        else:
            plain.append(re.escape(word))
    layers: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    for (head, layer), numbers in blocks.items():
        layers[head, tuple(numbers)].append(layer)
    return [*plain, *(_pattern(head, numbers, names) for (head, numbers), names in layers.items())]


def _pattern(head: str, numbers: Sequence[str], layers: Sequence[str]) -> str:
    return rf"{re.escape(head)}{_one_of(numbers)}\.{_one_of(layers)}"


def _one_of(words: Sequence[str]) -> str:
    escaped = [re.escape(word) for word in words]
    return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"
