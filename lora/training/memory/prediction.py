"""Predict the memory of a training in a configuration, on the device and on the host.

Computes with numbers only; knows no model, no device and no library. Counted, and checked against allocations on a CPU:
weights, the LoRA with its optimizer, and the activations that autograd keeps. Estimated, and not measured on CUDA:
TRANSIENT_UNITS, UNITS_IN_8_BITS, WORKSPACE, HOST_WORKSPACE, VAE_BYTES_PER_PIXEL and the units of autocast, which were
counted with tensors without data.
"""

from dataclasses import dataclass, replace

from lora.base.dimensions import Dimensions
from lora.engine.options import PRECOMPUTED_BYTES, Engine, Recomputed
from lora.engine.precision import MatmulPrecision, TimedMatmul
from lora.training.memory.activations import most_units
from lora.training.memory.encoders import EncoderPlacement, encoding_bytes, vae_activation_bytes
from lora.training.memory.host import HOST_WORKSPACE, HostMemory, pinned_bytes
from lora.training.memory.weights import BF16, FP32, MemoryConfiguration, weight_bytes

LORA_BYTES = 3 * FP32  # per parameter, without the optimizer's state: its value, its gradient, its average (EMA)
# Gradients inside a block during the backward pass, beside that of the widest product of a token. On a CPU, 5 are
# alive at once in FLUX.1 and 6 in FLUX.2, in a single block.
TRANSIENT_UNITS = 8
# The result of the widest int8 matmul, in bf16, and in int32 and fp32 at once before it is rounded to that.
UNITS_IN_8_BITS: dict[MatmulPrecision, int] = {"int8": 5, "bf16": 0}
WORKSPACE = 500_000_000  # of libraries, and fragmentation of the allocator


@dataclass(frozen=True, slots=True)
class MemoryRequirements:
    """The numbers that determine how much memory a training needs."""

    shape: Dimensions
    image_tokens: int  # of the largest training size
    text_tokens: int
    batch_size: int
    lora_parameters: int
    optimizer_bytes: float  # of optimizer state per LoRA parameter
    encoder_bytes: tuple[int, ...]  # of each text encoder
    vae_bytes: int
    is_preserving: bool  # with preservation, a second batch follows each batch of training
    is_validated: bool
    sample_tokens: int  # of a sample image; 0 without samples
    processes: int
    matmuls: tuple[TimedMatmul, ...]  # of int8 layers, from the fastest on
    reference_tokens: int = 0  # of all reference images of one image together

    @property
    def tokens(self) -> int:
        """The tokens of one sample that the transformer computes with."""
        return self.image_tokens + self.reference_tokens + self.text_tokens

    def unit_bytes(self, value_bytes: int) -> int:
        """Bytes of a value for each sample, token and channel of a block."""
        return self.batch_size * self.tokens * self.shape.width * value_bytes


@dataclass(frozen=True, slots=True)
class MemoryPrediction:
    """The memory of a training on a device. Bytes are those of one process, on the device unless it says otherwise."""

    requirements: MemoryRequirements
    on_gpu: bool
    engine: Engine

    def running_bytes(self, configuration: MemoryConfiguration) -> float:
        """The peak after encoding: of the steps, or of what is done between them."""
        units = self.requirements.shape.widest + TRANSIENT_UNITS
        transient = units * self.requirements.unit_bytes(self._value_bytes(configuration))
        step = self._resident_bytes(configuration) + self._forward_bytes(configuration) + transient
        return max(step, self._bytes_between_steps(configuration))

    def least_bytes(self, configuration: MemoryConfiguration) -> float:
        """The bytes of the base, the LoRA, its optimizer and its copies, which are there during the whole training."""
        requirements, value = self.requirements, self._value_bytes(configuration)
        base = weight_bytes(requirements.shape, configuration, on_gpu=self.on_gpu)
        lora = lora_bytes(requirements.lora_parameters, optimizer_bytes=requirements.optimizer_bytes)
        has_copies = self.engine == "fast" or self._is_autocast(configuration)
        return base + lora + (requirements.lora_parameters * value if has_copies else 0)

    def encoding_bytes(self, encoders: EncoderPlacement) -> float:
        """The peak while texts and images are encoded."""
        weights, tokens = (self.requirements.encoder_bytes, self.requirements.vae_bytes), self.requirements.image_tokens
        return encoding_bytes(encoders, *weights, image_tokens=tokens) + WORKSPACE

    def host_memory(self, configuration: MemoryConfiguration, *, free: float) -> HostMemory:
        """On the host, in all processes. All encoders pass through host memory, wherever they run."""
        requirements, count = self.requirements, self.requirements.processes if self.on_gpu else 0
        encoders = sum(requirements.encoder_bytes) + requirements.vae_bytes if self.on_gpu else 0
        pinned = count * pinned_bytes(requirements.shape, configuration)
        return HostMemory(pinned, count * HOST_WORKSPACE, encoders, free)

    def _bytes_between_steps(self, configuration: MemoryConfiguration) -> float:
        """Peak of validation and samples: with a copy of the LoRA's weights, while their average replaces them.
        Both run the forward pass of a step (lora/training/learning/forward_passes.py)."""
        requirements, parts = self.requirements, [0.0]
        if requirements.is_validated:
            parts.append(self._forward_bytes(configuration))
        if requirements.sample_tokens:
            of_one = replace(requirements, image_tokens=requirements.sample_tokens, batch_size=1)
            forward = replace(self, requirements=of_one)._forward_bytes(configuration)
            parts.append(requirements.vae_bytes + max(forward, vae_activation_bytes(requirements.sample_tokens)))
        return self._resident_bytes(configuration) + requirements.lora_parameters * FP32 + max(parts)

    def _resident_bytes(self, configuration: MemoryConfiguration) -> float:
        """The least, with buffers that are there in every pass."""
        requirements, on_host = self.requirements, configuration.modulation_on_host
        largest = requirements.shape.largest * self._value_bytes(configuration)  # dequantized or transferred weight
        transferred = largest if on_host or configuration.precision in ("int8", "nf4") else 0
        precomputed = PRECOMPUTED_BYTES * (1 + requirements.is_preserving) if on_host else 0
        return self.least_bytes(configuration) + transferred + precomputed + WORKSPACE

    def _forward_bytes(self, configuration: MemoryConfiguration) -> float:
        """Of the activations of a forward pass that keeps what a backward pass needs."""
        requirements, value = self.requirements, self._value_bytes(configuration)
        int8_units = UNITS_IN_8_BITS[configuration.matmul] if configuration.precision == "int8" else 0
        int8_units *= requirements.shape.widest
        activations = activation_bytes(
            requirements,
            recomputed=configuration.recomputed,
            whole_blocks=configuration.whole_blocks,
            value_bytes=value,
            is_autocast=self._is_autocast(configuration),
        )
        return activations + int8_units * requirements.unit_bytes(value)

    def _value_bytes(self, configuration: MemoryConfiguration) -> int:
        return configuration.value_bytes(on_gpu=self.on_gpu)

    def _is_autocast(self, configuration: MemoryConfiguration) -> bool:
        return self.engine == "plain" and self._value_bytes(configuration) == BF16


def lora_bytes(parameters: int, *, optimizer_bytes: float) -> float:
    """Bytes of a LoRA in fp32 with its gradients, its average and its optimizer state."""
    return parameters * (LORA_BYTES + optimizer_bytes)


def activation_bytes(
    requirements: MemoryRequirements,
    *,
    recomputed: Recomputed,
    whole_blocks: int = 0,
    value_bytes: int,
    is_autocast: bool,
) -> float:
    """Peak bytes of the activations that autograd keeps, with a LoRA on each linear layer of the blocks; a value has
    `value_bytes` bytes, and `whole_blocks` blocks are recomputed as a whole."""
    units = most_units(requirements.shape, recomputed, whole_blocks=whole_blocks, is_autocast=is_autocast)
    return units * requirements.unit_bytes(value_bytes)
