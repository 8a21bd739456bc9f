"""The report on the quality of a base: all measures as text."""

from pathlib import Path

import torch

from lora.families.loading import load_pipeline
from script.tiny_flux.following import Generator, flux1_generator, generated_by, score, score_classifier
from script.tiny_flux.guidance import guidance_batch, guidance_distance
from script.tiny_flux.measure import classify
from script.tiny_flux.monster_following import count_monsters
from script.tiny_flux.shape_measure import classify_strictly
from script.tiny_flux.world import held_out_scenes

GUIDANCE = (2.0, 3.5, 5.0)


def report(base: Path, *, renders: int = 20, seeds: int = 4) -> str:
    """Return one line per measure, on images of combinations that the base is not trained on."""
    pipeline = load_pipeline(base)
    torch.set_num_threads(2)
    lines = following_lines(flux1_generator(pipeline), renders=renders, seeds=seeds)
    batch = guidance_batch(pipeline, held_out_scenes())
    distances = [f"{guidance_distance(pipeline, batch, guidance):.2f} at {guidance:g}" for guidance in GUIDANCE]
    lines.append(
        f"distance of the guidance input to classifier-free guidance (0 equal, 1 no effect): {', '.join(distances)}"
    )
    return "\n".join(lines)


def following_lines(generator: Generator, *, renders: int, seeds: int) -> list[str]:
    """Return the measures of how well a generator follows prompts, of a base of any family."""
    lines, images = [], generated_by(generator, held_out_scenes(), seeds=seeds)
    for name, classifier in (("lenient", classify), ("strict", classify_strictly)):
        lines.append(f"the {name} measure on real renders: {score_classifier(renders=renders, classifier=classifier)}")
        lines.append(f"the {name} measure on held-out combinations: {score(images, classifier=classifier)}")
    lines.append(f"described monsters by the strict measure: {count_monsters(generator, seeds=seeds)}")
    return lines
