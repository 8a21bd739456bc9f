"""What the inputs of a training say about masks: how much what is outside of them counts, and what is there."""

from dataclasses import dataclass

WHITE, ORIGINAL = "white", "original"
BACKGROUNDS = (WHITE, ORIGINAL)


@dataclass(frozen=True, slots=True)
class MaskSettings:
    """What masks do."""

    unmasked_weight: float  # of the loss outside of masks; with 1 there are none
    background: str  # of BACKGROUNDS: outside of masks that are files; a cut-out image is always on white

    @property
    def have_effect(self) -> bool:
        """Whether masks have an effect."""
        return self.unmasked_weight < 1


NO_MASKS = MaskSettings(1.0, ORIGINAL)
