"""Which LoRAs a pipeline wears: added to its weights, from copies of those as they were. Knows no file and no prompt.

Weights are only ever written as base + change, and never by what they differ from what was worn before: the same
outfit is the same weights bit for bit, whatever came before, and nothing worn is the base itself. What is worn costs
no time to draw with.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from diffusers import FluxPipeline
from torch import Tensor

from lora.engine.streaming import invalidate_device_copies, stored_weight
from lora.formats.weight_deltas import Change, FluxLora, Pair
from lora.serving.compatibility import Layers, deltas_by_layer, linear_layers, refuse_incompatible

RESERVE = 8 * 2**30  # bytes of a GPU that stay free for drawing; copies beyond that go to the host, or are not kept


@dataclass(frozen=True, slots=True)
class AppliedLora:
    """A LoRA, and how strongly it is worn: 0 is not at all, -1 takes away."""

    digest: str  # the same for the same LoRA, and for no other
    lora: FluxLora
    scale: float
    named: str  # by its input and its reference, for errors


@dataclass(frozen=True, slots=True)
class Original:
    """A layer's weights as they were before anything was worn."""

    weight: Tensor  # [out, in], perhaps on the host
    hash: int


@dataclass(frozen=True, slots=True)
class ScaledDelta:
    """What a LoRA changes of one layer, and how strongly it is worn."""

    digest: str  # the LoRA's
    change: Change
    scale: float


@dataclass(frozen=True, slots=True)
class ScaledFactors:
    """A plain LoRA of one layer where it is multiplied, and how strongly it is worn."""

    pair: Pair
    scale: float


Changes = Mapping[str, Sequence[ScaledDelta]]  # by names of layers


class LoraMerger:
    """Puts LoRAs on a pipeline and takes them off. Wherever a call is interrupted, the next one finds its way."""

    def __init__(self, pipeline: FluxPipeline) -> None:
        self._layers = linear_layers(pipeline)
        self._originals: dict[str, Original] = {}  # of every layer that was ever changed
        self._placed: dict[tuple[str, str], Pair] = {}  # of what is worn, by digest and layer, where it is multiplied
        self._changed: set[str] = set()  # layers that may not be as they were
        self._worn: tuple[tuple[str, float], ...] | None = ()  # None in the midst of a change
        self._on_text: tuple[tuple[str, float], ...] = ()
        self.is_intact = True  # whether the base has always come back as it was
        self.writes: Counter[str] = Counter()  # how often a layer's weights were, or were about to be, written

    def wear(self, outfit: Sequence[AppliedLora]) -> None:
        """Wear these and nothing else.

        Raises ValueError if one does not fit; what was worn is then worn still. Raises ValueError if weights become
        infinite; after that, and after any other exception, nothing is worn.
        """
        for worn in outfit:
            _refuse_incompatible(worn, self._layers)
        seen = [worn for worn in outfit if worn.scale != 0]
        wanted = tuple((worn.digest, worn.scale) for worn in seen)
        if wanted == self._worn:
            return
        self._worn = None
        try:
            self._become(_changes(seen))
            self._refuse_infinite(seen)
            self._on_text = tuple((each.digest, each.scale) for each in seen if each.lora.clip or each.lora.t5)
            self._worn = wanted
        finally:
            if self._worn is None:  # an error, or a cancel
                self._become({})
                self._worn, self._on_text = (), ()
            digests = {digest for digest, _ in self._worn}
            self._placed = {key: pair for key, pair in self._placed.items() if key[0] in digests}

    @property
    def on_text_encoders(self) -> tuple[tuple[str, float], ...]:
        """What of the outfit changes how a prompt is encoded: digests and scales."""
        return self._on_text

    @torch.no_grad()
    def _become(self, changes: Changes) -> None:
        for name in self._changed - changes.keys():
            self.writes[name] += 1
            invalidate_device_copies(self._layers[name])
            stored_weight(self._layers[name]).copy_(self._originals[name].weight)
        for name, scaled in changes.items():
            self._change(name, scaled)
        self._changed = self._changed & changes.keys()
        if not changes:
            hashes = {name: _hash(stored_weight(self._layers[name])) for name in self._originals}
            self.is_intact &= all(hashes[name] == original.hash for name, original in self._originals.items())

    def _change(self, name: str, scaled: Sequence[ScaledDelta]) -> None:
        layer = self._layers[name]
        weight = stored_weight(layer)
        if name not in self._originals:
            self._originals[name] = Original(_copy(weight), _hash(weight))
        self._changed.add(name)
        self.writes[name] += 1
        original = self._originals[name].weight.to(layer.weight.device)
        pairs = [self._pair(name, each, original.device) for each in scaled if isinstance(each.change, Pair)]
        invalidate_device_copies(layer)
        _write(weight, original, pairs, [each for each in scaled if not isinstance(each.change, Pair)])

    def _pair(self, name: str, scaled: ScaledDelta, device: torch.device) -> ScaledFactors:
        """Where it is multiplied: there already if only the scale is another, and memory let it stay."""
        key = (scaled.digest, name)
        pair = self._placed.get(key)
        if pair is None:
            whole = scaled.change.pair()
            pair = Pair(whole.down.to(device), whole.up.to(device))
            if _has_room(device, for_bytes=pair.down.nbytes + pair.up.nbytes):
                self._placed[key] = pair
        return ScaledFactors(pair, scaled.scale)

    def _refuse_infinite(self, outfit: Sequence[AppliedLora]) -> None:
        if not _are_finite(stored_weight(self._layers[name]) for name in self._changed):
            names = " with ".join(worn.named for worn in outfit)
            raise ValueError(f"{names} makes weights of the model infinite: expected smaller numbers or scales")


def _refuse_incompatible(worn: AppliedLora, layers: Layers) -> None:
    try:
        refuse_incompatible(worn.lora, layers)
    except ValueError as error:
        raise ValueError(f"{worn.named} {error}") from error


def _changes(outfit: Sequence[AppliedLora]) -> Changes:
    changes: defaultdict[str, list[ScaledDelta]] = defaultdict(list)
    for worn in outfit:
        for name, change in deltas_by_layer(worn.lora):
            changes[name].append(ScaledDelta(worn.digest, change, worn.scale))
    return changes


def _write(weight: Tensor, original: Tensor, pairs: Sequence[ScaledFactors], others: Sequence[ScaledDelta]) -> None:
    """One product of all plain LoRAs and one rounding, however many there are; others are whole for a moment, in
    fp32. On the original's device, from which a weight that streams is copied to where it is kept."""
    total = original.to(torch.float32, copy=True) if others else original
    for each in others:
        total.add_(each.change.matrix(total.device), alpha=each.scale)
    if pairs:
        up, down, scale = _joined(pairs)
        into = total if others else weight if weight.device == total.device else None
        total = torch.addmm(total, up.to(total), down.to(total), alpha=scale, out=into)
    weight.copy_(total)


def _joined(pairs: Sequence[ScaledFactors]) -> tuple[Tensor, Tensor, float]:
    """Up, down and scale of one LoRA that is all of them."""
    if len(pairs) == 1:
        return pairs[0].pair.up, pairs[0].pair.down, pairs[0].scale
    up = torch.cat([each.pair.up * each.scale for each in pairs], dim=1)
    return up, torch.cat([each.pair.down for each in pairs]), 1.0


def _are_finite(weights: Iterable[Tensor]) -> bool:
    """By their sums, asked of each device once: it need not be waited for at every layer."""
    sums: defaultdict[torch.device, list[Tensor]] = defaultdict(list)
    for weight in weights:
        sums[weight.device].append(weight.detach().sum(dtype=torch.float32))
    return all(torch.stack(found).isfinite().all() for found in sums.values())


def _copy(weight: Tensor) -> Tensor:
    """On the same device if that has room to spare."""
    has_room = _has_room(weight.device, for_bytes=weight.nbytes)
    return weight.detach().clone() if has_room else weight.detach().cpu()


def _has_room(device: torch.device, *, for_bytes: int) -> bool:
    return device.type != "cuda" or torch.cuda.mem_get_info(device)[0] >= RESERVE + for_bytes


def _hash(weight: Tensor) -> int:
    return int(torch.hash_tensor(weight.detach()).item())
