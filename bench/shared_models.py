"""Models that several arms train, one after another, so that each is built once."""

from bench.random_flux import Sizes
from bench.step_arms import Arm, LoraModel, TrainingSetup, configure, lora_model
from lora.base.device import free_memory
from lora.families.frozen_transformer import WeightPlacement


class SharedModels:
    """Keeps the last arm's model as long as the following arms can train it, too.

    Only one model exists at a time: another would count in the peak memory of each arm, and two do not fit on every
    GPU. The script's arms share one and ours another, as both loops change the transformer for good: Accelerate
    replaces its `forward`, and ours its LoRA layers.
    """

    def __init__(self, sizes: Sizes) -> None:
        self._sizes = sizes
        self._arm: Arm | None = None
        self._setup: TrainingSetup | None = None
        self._model: LoraModel | None = None
        self._key: tuple[bool, WeightPlacement] | None = None

    def setup_for(self, arm: Arm) -> TrainingSetup:
        """An arm's setup: the last one, if it was the same arm's, else a new one on the last model, if that will do."""
        if self._setup is not None and arm == self._arm:
            return self._setup
        self._arm, self._setup = None, None
        model = self._model_for(arm)
        self._setup, self._arm = configure(arm, model, self._sizes), arm
        return self._setup

    def _model_for(self, arm: Arm) -> LoraModel:
        key = (arm.is_ours, arm.placement(self._sizes))
        if self._model is None or key != self._key:
            self.release()
            self._model, self._key = lora_model(self._sizes, key[1]), key
        return self._model

    def release(self) -> None:
        """Free the model."""
        self._arm, self._setup, self._model, self._key = None, None, None, None
        free_memory()
