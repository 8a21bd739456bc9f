"""How good is a base? All of its measures in words."""

from pathlib import Path

import torch

from lora.flux.loading import load_pipeline
from script.tiny_flux.following import generated, score, score_measure
from script.tiny_flux.guidance import guidance_distance, guided_questions
from script.tiny_flux.measure import judge
from script.tiny_flux.monster_following import monsters_followed
from script.tiny_flux.shape_measure import judge_strictly
from script.tiny_flux.world import held_out_scenes

GUIDANCE = (2.0, 3.5, 5.0)


def report(base: Path, *, renders: int = 20, seeds: int = 4) -> str:
    """One line for each measure, on pictures of combinations that the base never saw."""
    pipeline, scenes = load_pipeline(base), held_out_scenes()
    torch.set_num_threads(2)
    lines, pictures = [], generated(pipeline, scenes, seeds=seeds)
    for name, measure in (("lenient", judge), ("strict", judge_strictly)):
        lines.append(f"the {name} measure on real renders: {score_measure(renders=renders, measure=measure)}")
        lines.append(f"the {name} measure on held-out combinations: {score(pictures, measure=measure)}")
    lines.append(f"monsters that words describe, by the strict measure: {monsters_followed(pipeline, seeds=seeds)}")
    questions = guided_questions(pipeline, scenes)
    distances = [f"{guidance_distance(pipeline, questions, guidance):.2f} at {guidance:g}" for guidance in GUIDANCE]
    lines.append(f"distance of the guidance input to true guidance (0 the same, 1 none): {', '.join(distances)}")
    return "\n".join(lines)
