"""Everything that can be wrong with a training is found here, before anything expensive starts. Loads no weights."""

from dataclasses import asdict, dataclass
from pathlib import Path

from lora.dataset.inspection import Inspector
from lora.dataset.pixels import PixelStore
from lora.dataset.reading import Archives, Dataset, read_dataset
from lora.dataset.report import Report, report_on
from lora.engine.options import chosen_engine
from lora.flux.loading import device, transformer_config
from lora.flux.prompt import text_tokens_of
from lora.training.checkpoints.identity import identity_of
from lora.training.checkpoints.resume import InitialState, Start, find_initial_state, open_store
from lora.training.checkpoints.store import CheckpointStore
from lora.training.learning.validation import count_held_out
from lora.training.learning.warm_start import match_layers
from lora.training.memory.configurations import Plan, plans
from lora.training.memory.requirements import free_bytes, memory_requirements
from lora.training.progress import Log
from lora.training.recipe.config import TrainConfig
from lora.training.recipe.layers import LayerChoice, block_layers, chosen_layers
from lora.training.recipe.neutral import neutral_prompts, neutral_side
from lora.training.recipe.presets import PRESETS
from lora.training.recipe.recipe import Recipe, choose
from lora.training.runs.launch import count_processes


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A training that nothing speaks against."""

    config: TrainConfig
    base: Path
    base_name: str
    images: Dataset
    inspector: Inspector
    report: Report
    layers: LayerChoice
    recipe: Recipe
    neutral_prompts: tuple[str, ...]  # for preservation, if there is any
    processes: int
    plans: tuple[Plan, ...]
    store: CheckpointStore
    beginning: InitialState

    def settings(self) -> dict[str, object]:
        """All that was asked and chosen, by name."""
        return {
            **asdict(self.config),
            **self.recipe.settings(),
            "base_model": self.base_name,
            "images": len(self.images.images),
            "layers_trained": len(self.layers.names),
            "processes": self.processes,
        }


def prepare(
    config: TrainConfig, archives: Archives, start: Start, *, base: Path, base_name: str, into: Path, log: Log
) -> Prepared:
    """Read the images, make all choices and say them. Raises ValueError with one sentence on what is wrong."""
    processes = count_processes()
    layers = _layers(config, base)
    neutral = neutral_prompts(base) if config.preservation else ()
    text_tokens_of(base)  # a tokenizer that cannot be used is refused before images are read
    views = PRESETS[config.lora_type].views
    inspector = Inspector(config.resolutions, PixelStore(into / "dataset/pixels"), views=views)
    if start.lora is not None:
        log.say(match_layers(start.lora, layers.shapes).line())
    images = read_dataset(archives, into=into / "dataset", inspector=inspector, rule=config.prompt_rule)
    report = report_on(images, rule=config.prompt_rule, resolutions=config.resolutions)
    recipe, reasons = choose(config, images=count_trained(images, config), processes=processes)
    log.say(report.as_text(), layers.note, *reasons)
    identity = identity_of(
        recipe, images, config, neutral=neutral, layers=layers.names, base=base_name, weights=base, processes=processes
    )
    beginning = find_initial_state(start, identity, steps=recipe.steps, log=log)
    prepared = Prepared(
        config=config,
        base=base,
        base_name=base_name,
        images=images,
        inspector=inspector,
        report=report,
        layers=layers,
        recipe=recipe,
        neutral_prompts=neutral,
        processes=processes,
        plans=_plans(config, recipe, images, layers, base),
        store=open_store(identity, beginning, log),
        beginning=beginning,
    )
    settings = ", ".join(f"{name} {value}" for name, value in prepared.settings().items())
    log.say(f"settings: {settings}", recipe.sigma_line())
    return prepared


def count_trained(dataset: Dataset, config: TrainConfig) -> int:
    """How many images are trained on: copies count once, and those that are held out do not."""
    distinct = len({image.look.content for image in dataset.images})
    return distinct - (count_held_out(distinct) if config.validation else 0)


def _layers(config: TrainConfig, base: Path) -> LayerChoice:
    names = block_layers(transformer_config(base))
    return chosen_layers(names, layers=config.layers, layers_to_optimize_regex=config.layers_to_optimize_regex)


def _plans(config: TrainConfig, recipe: Recipe, images: Dataset, layers: LayerChoice, base: Path) -> tuple[Plan, ...]:
    return plans(
        memory_requirements(base, images, recipe, layers.names, neutral_side=neutral_side(config.resolutions)),
        free_bytes=free_bytes(),
        on_gpu=device().type == "cuda",
        precision=config.precision,
        checkpointing=config.gradient_checkpointing or None,
        engine=chosen_engine(),
    )
