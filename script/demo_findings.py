"""Counts what the images of the demo show, by the strict measures of script/tiny_flux."""

from collections.abc import Sequence

from PIL import Image

from script.contact_sheet import Row
from script.tiny_flux.count import Count
from script.tiny_flux.measure import Classification
from script.tiny_flux.monster_measure import is_monster
from script.tiny_flux.shape_measure import classify_strictly
from script.tiny_flux.world import Scene, caption


def findings(rows: Sequence[Row], scenes: Sequence[Scene]) -> str:
    """Return the counts at the largest scale and at scale 0, as two sentences.

    The rows whose prompts are captions of `scenes` have no trigger word; all others should show the monster.
    """
    without_trigger = {caption(scene): scene for scene in scenes}
    monsters = [row for row in rows if row.prompt not in without_trigger]
    others = [row for row in rows if row.prompt in without_trigger]
    top = max(rows[0].by_scale)
    shown = {
        scale: Count.of(is_monster(image) for row in monsters for image in row.by_scale[scale]) for scale in (top, 0)
    }
    kept = {
        scale: Count.of(_shows(image, without_trigger[row.prompt]) for row in others for image in row.by_scale[scale])
        for scale in (top, 0)
    }
    return (
        f"With the trigger word, {shown[top]} images show the monster at lora_scale {top:g}, and {shown[0]} at 0. "
        f"Without it, {kept[top]} show what their prompt describes at lora_scale {top:g}, and {kept[0]} at 0."
    )


def _shows(image: Image.Image, scene: Scene) -> bool:
    return classify_strictly(image) == Classification(scene.colour, scene.shape)
