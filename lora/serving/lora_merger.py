"""Merges LoRAs into the weights of a pipeline, from copies of the original weights. Knows no file and no prompt.

Weights are always written as original + deltas, never as an update of what was applied before. So the same LoRAs give
the same weights bit for bit, whatever was applied before, and without LoRAs the weights are the originals. Merged LoRAs
add no time to generation. A delta that depends on the base's weights, as of a DoRA, is computed from the originals too,
so that several LoRAs add up in any order.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from lora.engine.streaming import invalidate_device_copies, stored_weight
from lora.formats.weight_deltas import FluxLora, LowRankFactors, WeightDelta
from lora.serving.compatibility import (
    Changeable,
    deltas_by_layer,
    name_in_model,
    refuse_incompatible,
    vectors_by_name,
)

RESERVE = 8 * 2**30  # bytes of GPU memory that stay free for generation; further copies go to the host or are dropped


@dataclass(frozen=True, slots=True)
class AppliedLora:
    """A LoRA and its scale: at 0 it has no effect, -1 subtracts it."""

    digest: str  # equal for equal LoRAs only
    lora: FluxLora
    scale: float
    named: str  # its input and its reference, for error messages


@dataclass(frozen=True, slots=True)
class Original:
    """A layer's weights, or a bias or the scale of a norm, before any LoRA was applied."""

    weight: Tensor  # [out, in] or [width], on the layer's device or the host
    hash: int


@dataclass(frozen=True, slots=True)
class ScaledDelta:
    """A LoRA's weight delta of one layer, and its scale."""

    digest: str  # the LoRA's
    delta: WeightDelta
    scale: float


@dataclass(frozen=True, slots=True)
class ScaledFactors:
    """A LoRA's low-rank factors of one layer, on the device that multiplies them, and their scale."""

    factors: LowRankFactors
    scale: float


@dataclass(frozen=True, slots=True)
class ScaledVector:
    """A LoRA's delta of a bias or of the scale of a norm [width], fp32, and its scale."""

    delta: Tensor
    scale: float


@dataclass(frozen=True, slots=True)
class Deltas:
    """What to add to the original weights."""

    layers: Mapping[str, Sequence[ScaledDelta]]  # by layer name
    vectors: Mapping[str, Sequence[ScaledVector]]  # by parameter name

    @property
    def names(self) -> set[str]:
        """The names of all layers and vectors that change."""
        return {*self.layers, *self.vectors}


NOTHING = Deltas({}, {})


class LoraMerger:
    """Merges LoRAs into a pipeline and removes them. Stays valid if a call is interrupted at any point."""

    def __init__(self, pipeline: DiffusionPipeline) -> None:
        self._changeable = Changeable.of(pipeline)
        self._originals: dict[str, Original] = {}  # of every layer and vector that was ever written
        self._device_factors: dict[tuple[str, str], LowRankFactors] = {}  # of applied LoRAs, by digest and layer
        self._merged: set[str] = set()  # layers and vectors that may differ from the originals
        self._applied: tuple[tuple[str, float], ...] | None = ()  # None while the weights are being written
        self._on_text: tuple[tuple[str, float], ...] = ()
        self.is_intact = True  # whether the original weights were restored exactly each time
        self.writes: Counter[str] = Counter()  # by layer: how often its weights were written, counted before each write

    def apply(self, loras: Sequence[AppliedLora]) -> None:
        """Apply these LoRAs, and remove all others.

        Raises ValueError if a LoRA is incompatible; the LoRAs that were applied then stay applied. Raises ValueError if
        weights become infinite; after that, and after any other exception, no LoRA is applied.
        """
        for lora in loras:
            _refuse_incompatible(lora, self._changeable)
        effective = [lora for lora in loras if lora.scale != 0]
        wanted = tuple((lora.digest, lora.scale) for lora in effective)
        if wanted == self._applied:
            return
        self._applied = None
        try:
            self._merge(_scaled_deltas(effective))
            self._refuse_infinite(effective)
            self._on_text = tuple((each.digest, each.scale) for each in effective if each.lora.changes_text_encoders)
            self._applied = wanted
        finally:
            if self._applied is None:  # an error or a cancel
                self._merge(NOTHING)
                self._applied, self._on_text = (), ()
            digests = {digest for digest, _ in self._applied}
            self._device_factors = {key: each for key, each in self._device_factors.items() if key[0] in digests}

    @property
    def on_text_encoders(self) -> tuple[tuple[str, float], ...]:
        """Digests and scales of the applied LoRAs that change the text encoders."""
        return self._on_text

    @torch.no_grad()
    def _merge(self, deltas: Deltas) -> None:
        """Write original + deltas, and restore the originals of all other merged layers and vectors."""
        for name in self._merged - deltas.names:
            self._stored_for_writing(name).copy_(self._originals[name].weight)
        for name, scaled in deltas.layers.items():
            self._merge_into(name, scaled)
        for name, vectors in deltas.vectors.items():
            vector = self._stored_for_writing(name)
            total = self._originals[name].weight.to(vector.device, torch.float32, copy=True)
            for each in vectors:
                total.add_(each.delta.to(total.device), alpha=each.scale)
            vector.copy_(total)
        self._merged &= deltas.names
        if not self._merged:
            hashes = {name: _hash(self._stored(name)) for name in self._originals}
            self.is_intact &= all(hashes[name] == original.hash for name, original in self._originals.items())

    def _stored(self, name: str) -> Tensor:
        layer = self._changeable.layers.get(name)
        return self._changeable.vectors[name] if layer is None else stored_weight(layer)

    def _stored_for_writing(self, name: str) -> Tensor:
        """Return a stored weight or vector, after what has to happen before it is written."""
        stored = self._stored(name)
        if name not in self._originals:
            self._originals[name] = Original(_copy(stored), _hash(stored))
        self._merged.add(name)
        self.writes[name] += 1
        if name in self._changeable.layers:
            invalidate_device_copies(self._changeable.layers[name])
        return stored

    def _merge_into(self, name: str, scaled: Sequence[ScaledDelta]) -> None:
        weight = self._stored_for_writing(name)
        device = self._changeable.layers[name].weight.device
        model, _, _ = name.partition(".")

        def base(layer: str) -> Tensor:
            other = name_in_model(model, layer)
            kept = self._originals.get(other)
            return (self._stored(other) if kept is None else kept.weight).to(device, torch.float32)

        resolved = [replace(each, delta=each.delta.resolved(base)) for each in scaled]
        low_rank = [self._factors(name, each, device) for each in resolved if isinstance(each.delta, LowRankFactors)]
        others = [each for each in resolved if not isinstance(each.delta, LowRankFactors)]
        _write(weight, self._originals[name].weight.to(device), low_rank, others)

    def _factors(self, name: str, scaled: ScaledDelta, device: torch.device) -> ScaledFactors:
        """Return the factors on the device. They are kept there, memory permitting, for when only the scale changes."""
        key = (scaled.digest, name)
        factors = self._device_factors.get(key)
        if factors is None:
            whole = scaled.delta.low_rank()
            factors = LowRankFactors(whole.down.to(device), whole.up.to(device))
            if _has_free_memory(device, for_bytes=factors.down.nbytes + factors.up.nbytes):
                self._device_factors[key] = factors
        return ScaledFactors(factors, scaled.scale)

    def _refuse_infinite(self, loras: Sequence[AppliedLora]) -> None:
        if not _are_finite(self._stored(name) for name in self._merged):
            names = " with ".join(lora.named for lora in loras)
            raise ValueError(
                f"{names} makes weights of the model infinite: expected a smaller scale, or a LoRA that is not damaged"
            )


def _refuse_incompatible(applied: AppliedLora, changeable: Changeable) -> None:
    try:
        refuse_incompatible(applied.lora, changeable)
    except ValueError as error:
        raise ValueError(f"{applied.named} {error}") from error


def _scaled_deltas(loras: Sequence[AppliedLora]) -> Deltas:
    layers: defaultdict[str, list[ScaledDelta]] = defaultdict(list)
    vectors: defaultdict[str, list[ScaledVector]] = defaultdict(list)
    for applied in loras:
        for name, delta in deltas_by_layer(applied.lora):
            layers[name].append(ScaledDelta(applied.digest, delta, applied.scale))
        for name, vector in vectors_by_name(applied.lora):
            vectors[name].append(ScaledVector(vector, applied.scale))
    return Deltas(layers, vectors)


def _write(weight: Tensor, original: Tensor, low_rank: Sequence[ScaledFactors], others: Sequence[ScaledDelta]) -> None:
    """Write original + deltas to a weight.

    All low-rank LoRAs together are one matrix product and one rounding; each other delta is materialized in fp32 for
    a moment. Computed on the original's device; a streamed weight is then copied to host memory.
    """
    total = original.to(torch.float32, copy=True) if others else original
    for each in others:
        total.add_(each.delta.matrix(total.device), alpha=each.scale)
    if low_rank:
        up, down, scale = _concatenated(low_rank)
        into = total if others else weight if weight.device == total.device else None
        total = torch.addmm(total, up.to(total), down.to(total), alpha=scale, out=into)
    weight.copy_(total)


def _concatenated(loras: Sequence[ScaledFactors]) -> tuple[Tensor, Tensor, float]:
    """Return up, down and scale of the one LoRA that equals the sum of these."""
    if len(loras) == 1:
        return loras[0].factors.up, loras[0].factors.down, loras[0].scale
    up = torch.cat([each.factors.up * each.scale for each in loras], dim=1)
    return up, torch.cat([each.factors.down for each in loras]), 1.0


def _are_finite(weights: Iterable[Tensor]) -> bool:
    """Check the sums of the weights, with one synchronization for each device instead of one for each layer."""
    sums: defaultdict[torch.device, list[Tensor]] = defaultdict(list)
    for weight in weights:
        sums[weight.device].append(weight.detach().sum(dtype=torch.float32))
    return all(torch.stack(found).isfinite().all() for found in sums.values())


def _copy(weight: Tensor) -> Tensor:
    """Copy a weight on its own device if that has memory to spare, else to the host."""
    fits = _has_free_memory(weight.device, for_bytes=weight.nbytes)
    return weight.detach().clone() if fits else weight.detach().cpu()


def _has_free_memory(device: torch.device, *, for_bytes: int) -> bool:
    return device.type != "cuda" or torch.cuda.mem_get_info(device)[0] >= RESERVE + for_bytes


def _hash(weight: Tensor) -> int:
    return int(torch.hash_tensor(weight.detach()).item())
