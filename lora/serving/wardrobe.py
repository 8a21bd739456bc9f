"""Which LoRA the pipeline is wearing. Knows no file and no prompt.

Every LoRA goes under its own name (the digest of its file), so what is worn can always be asked of the pipeline
and no record of ours can disagree with it.
"""

import contextlib
from collections.abc import Mapping

from diffusers import FluxPipeline
from torch import Tensor

from lora.flux.lora_layout import DiffusersLora, linear_shapes
from lora.serving.fitting import fit_lora


class Wardrobe:
    """Puts one LoRA on a pipeline and takes it off, so that a request finds the same state whatever came before."""

    def __init__(self, pipeline: FluxPipeline) -> None:
        self._pipeline = pipeline
        self._shapes = linear_shapes(pipeline.transformer)

    def wear(self, tensors: Mapping[str, Tensor], *, name: str, scale: float) -> None:
        """Wear a LoRA at `scale` times its strength, and nothing else. At scale 0 nothing at all is worn.

        Raises ValueError if the LoRA does not fit the model; what was worn before is then worn still.
        """
        fitted = fit_lora(tensors, self._shapes)
        if scale == 0:
            self.take_off()
            return
        if self._worn() != [name]:
            self._put_on(fitted, name)
        self._pipeline.set_adapters([name], [scale])

    def take_off(self) -> None:
        """Be the base model again, bit for bit: adapters never touch its weights."""
        self._pipeline.unload_lora_weights(reset_to_overwritten_params=True)

    def _put_on(self, lora: DiffusersLora, name: str) -> None:
        self.take_off()
        with contextlib.ExitStack() as undo:
            undo.callback(self.take_off)  # an error or a cancel half-way leaves nothing behind
            self._pipeline.load_lora_into_transformer(
                lora.tensors, network_alphas=lora.alphas, transformer=self._pipeline.transformer, adapter_name=name
            )
            undo.pop_all()

    def _worn(self) -> list[str]:
        return self._pipeline.get_list_adapters().get("transformer", [])
