"""Prepare a training: check everything that can be wrong before anything expensive starts. Loads no weights."""

from dataclasses import dataclass
from pathlib import Path

from lora.base.device import device
from lora.base.presets import Preset, chosen_preset
from lora.dataset.encoding import encoded_bytes
from lora.dataset.inspection import Inspector
from lora.dataset.pixels import PixelStore
from lora.dataset.reading import Archives, Dataset, read_dataset
from lora.dataset.report import Report, report_on
from lora.engine.options import chosen_engine
from lora.families.loading import transformer_config
from lora.families.registry import FAMILIES, family_of
from lora.training.captions import Captioning, with_captions
from lora.training.checkpoints.identity import identity_of, refuse_other_base
from lora.training.checkpoints.resume import NAMED, InitialState, ResumeSource, find_initial_state, open_store
from lora.training.checkpoints.store import CheckpointStore
from lora.training.learning.held_out import count_held_out
from lora.training.learning.warm_start import match_layers
from lora.training.memory.configurations import Plan, plans
from lora.training.memory.refusal import refuse_too_large
from lora.training.memory.requirements import memory_requirements
from lora.training.progress import Log
from lora.training.recipe.comparison import recipe_lines
from lora.training.recipe.config import TrainConfig
from lora.training.recipe.layers import LayerSelection, block_layers, select_layers
from lora.training.recipe.neutral import neutral_prompts, neutral_side
from lora.training.recipe.recipe import Recipe, make_recipe, preservation_of
from lora.training.recipe.samples import SampleSettings, sample_settings, sample_side
from lora.training.result.known_bases import trainable_bases
from lora.training.runs.process_info import Processes
from lora.training.runs.rank_zero import find_processes


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A checked training: its inputs, and all choices that were made for it."""

    config: TrainConfig
    base: Path
    base_name: str
    images: Dataset
    inspector: Inspector
    report: Report
    layers: LayerSelection
    recipe: Recipe
    neutral_prompts: tuple[str, ...]  # for preservation; empty without it
    samples: SampleSettings
    reasons: tuple[str, ...]  # for the choices of the recipe
    processes: int
    plans: tuple[Plan, ...]
    store: CheckpointStore
    initial_state: InitialState

    def settings(self) -> dict[str, object]:
        """All inputs and all choices, by name."""
        return {
            **self.config.settings(),
            **self.recipe.settings(),
            "sample_prompts": self.samples.prompts,
            "sample_guidance": self.samples.guidance,
            "base_model": self.base_name,
            "base_family": family_of(self.base).name,
            "images": len(self.images.images),
            "layers_trained": len(self.layers.names),
            "processes": self.processes,
        }


def prepare(
    config: TrainConfig,
    archives: Archives,
    source: ResumeSource,
    captioning: Captioning,
    *,
    base: Path,
    base_name: str,
    into: Path,
    log: Log,
) -> Prepared:
    """Read the images, make all choices, and log them. Raises ValueError with one sentence on what is wrong, and what
    `with_captions` raises."""
    preset, layers = _preset(config, base, base_name), _layers(config, base)
    neutral = neutral_prompts(base) if preservation_of(config, preset) else ()
    read = _read(config, preset, archives, source, layers, base=base, base_name=base_name, into=into, log=log)
    recipe, processes, images = read.recipe, read.processes, with_captions(read.images, config, captioning, log.write)
    report = report_on(images, rule=config.prompt_rule, resolutions=config.resolutions)
    log.write(report.as_text(), layers.note, *read.lines)
    identity = identity_of(
        recipe, images, config, neutral=neutral, layers=layers.names, base=base_name, weights=base, processes=processes
    )
    initial_state = find_initial_state(source, identity, steps=recipe.steps, log=log)
    return Prepared(
        config=config,
        base=base,
        base_name=base_name,
        images=images,
        inspector=read.inspector,
        report=report,
        layers=layers,
        recipe=recipe,
        neutral_prompts=neutral,
        samples=sample_settings(config, images.images, default_guidance=family_of(base).sampling.defaults.guidance),
        reasons=read.reasons,
        processes=processes,
        plans=read.plans,
        store=open_store(identity, initial_state, log),
        initial_state=initial_state,
    )


@dataclass(frozen=True, slots=True)
class _Read:
    """The images of a training without captions by a captioner, and what does not depend on captions."""

    images: Dataset
    inspector: Inspector
    processes: int
    recipe: Recipe
    reasons: tuple[str, ...]
    lines: tuple[str, ...]  # for the log, on the recipe
    plans: tuple[Plan, ...]


def _read(
    config: TrainConfig,
    preset: Preset,
    archives: Archives,
    source: ResumeSource,
    layers: LayerSelection,
    *,
    base: Path,
    base_name: str,
    into: Path,
    log: Log,
) -> _Read:
    """Read the images, and refuse what cannot be trained before a captioner is loaded."""
    found = find_processes(base, name=base_name, log=log)
    family_of(base).text.length_of(base)  # refuses an unusable tokenizer before the images are read
    processes, store = found.count, PixelStore(into / "dataset/pixels")
    inspector = Inspector(
        config.resolutions,
        store,
        crops=preset.views,
        batch_size=config.batch_size * processes,
        masks=config.masks,
    )
    _refuse_other_source(source, layers, base=base, base_name=base_name, log=log)
    images = read_dataset(
        archives,
        into=into / "dataset",
        inspector=inspector,
        rule=config.prompt_rule,
        with_references=config.has_references,
    )
    count = count_trained(images, config)
    recipe, reasons = make_recipe(config, preset, images=count, processes=processes)
    log.write(*config.notes)
    fitting = _plans(config, recipe, images, layers, base, found)
    settings = recipe_lines(config, recipe, preset, images=count, processes=processes)
    lines = (*reasons, *settings, recipe.sigma_line())
    return _Read(images, inspector, processes, recipe, reasons, lines, fitting)


def _refuse_other_source(source: ResumeSource, layers: LayerSelection, *, base: Path, base_name: str, log: Log) -> None:
    """Raise ValueError if a checkpoint or a LoRA to resume from is of another base."""
    if source.checkpoint is not None:
        refuse_other_base(source.checkpoint.identity, base=base_name, weights=base, named=NAMED)
    if source.lora is not None:
        log.write(match_layers(source.lora, layers.shapes, family_of(base).layer_names).line())


def _preset(config: TrainConfig, base: Path, base_name: str) -> Preset:
    """The preset of the base's family for `lora_type`; raises ValueError if it has none."""
    able = {family.components.pipeline.__name__ for family in FAMILIES if config.lora_type in family.presets}
    others = trainable_bases(able)
    return chosen_preset(family_of(base).presets, config.lora_type, base=base_name, others=others)


def count_trained(dataset: Dataset, config: TrainConfig) -> int:
    """How many images are trained on: copies of an image count once, and held-out images do not count."""
    return _count_distinct(dataset) - _count_held_out(dataset, config)


def _count_held_out(dataset: Dataset, config: TrainConfig) -> int:
    return count_held_out(_count_distinct(dataset)) if config.validation else 0


def _count_distinct(dataset: Dataset) -> int:
    return len({image.inspection.content for image in dataset.images})


def _layers(config: TrainConfig, base: Path) -> LayerSelection:
    names = block_layers(transformer_config(base), family_of(base).components.transformer)
    return select_layers(
        names, family_of(base), layers=config.layers, layers_to_optimize_regex=config.layers_to_optimize_regex
    )


def _cached_bytes(config: TrainConfig, images: Dataset, base: Path) -> int:
    """The host memory that encoded images and captions take during the training."""
    return 0 if config.cache_latents_to_disk else encoded_bytes(images, base, extra_texts=0)


def _plans(
    config: TrainConfig,
    recipe: Recipe,
    images: Dataset,
    layers: LayerSelection,
    base: Path,
    processes: Processes,
) -> tuple[Plan, ...]:
    requirements = memory_requirements(
        base,
        images,
        recipe,
        layers.names,
        neutral_side=neutral_side(config.resolutions),
        sample_side=sample_side(config),
        is_validated=_count_held_out(images, config) > 0,
        processes=processes.on_one_machine,
        may_be_int8=config.precision in ("auto", "int8"),
    )
    found = plans(
        requirements,
        free_bytes=processes.free_bytes,
        free_host_bytes=processes.free_host_bytes - _cached_bytes(config, images, base),
        on_gpu=device().type == "cuda",
        precision=config.precision,
        checkpointing=config.gradient_checkpointing or None,
        engine=chosen_engine(),
    )
    refuse_too_large(found[0])
    return found
