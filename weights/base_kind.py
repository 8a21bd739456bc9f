"""The kinds of base models that can be loaded, told by what the configurations of a folder say. Reads no weights.

A kind is a family of FLUX with the components of its pipeline in diffusers. Knows no catalogue and no download.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from weights.component_files import ComponentFiles, json_object
from weights.printed import quoted

INDEX = "model_index.json"  # contained in every folder in diffusers layout
CLASS = "_class_name"
TRANSFORMER, VAE, TEXT = "transformer/config.json", "vae/config.json", "text_encoder/config.json"
EXPECTED = "expected FLUX.1-dev, FLUX.1-Krea-dev, FLUX.1-schnell, FLUX.2 [klein], or a model with such an architecture"
MODELS = {  # other pipelines that are often taken for one of ours -> what they are called
    "FluxFillPipeline": "FLUX.1 Fill",
    "FluxKontextPipeline": "FLUX.1 Kontext",
    "FluxKontextInpaintPipeline": "FLUX.1 Kontext",
    "FluxControlPipeline": "FLUX.1 Canny or Depth",
    "FluxPriorReduxPipeline": "FLUX.1 Redux",
    "Flux2Pipeline": "FLUX.2-dev",
    "Flux2KleinKVPipeline": "FLUX.2 [klein] KV",
    "StableDiffusion3Pipeline": "Stable Diffusion 3",
    "StableDiffusionXLPipeline": "Stable Diffusion XL",
    "StableDiffusionPipeline": "Stable Diffusion",
    "ChromaPipeline": "Chroma",
    "QwenImagePipeline": "Qwen-Image",
    "ZImagePipeline": "Z-Image",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigValue:
    """A value by which a kind of base is told from others with the same classes."""

    file: str  # in the folder of the base
    name: str
    value: object
    default: object = None  # what the class takes where the file has no value; None: any value is right then
    others: Mapping[object, str] = field(default_factory=dict)  # other values -> the models that have them


@dataclass(frozen=True, slots=True)
class TextWidth:
    """Where the width of the text encoder is, of which the transformer takes a multiple."""

    file: str  # in the folder of the base
    name: str
    factor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseKind:
    """A kind of base: what its folder contains in diffusers layout."""

    name: str  # for messages
    pipelines: tuple[str, ...]  # the classes in model_index.json that have these components, and no others
    transformer: str  # the class in its configuration
    vae: str
    components: tuple[ComponentFiles, ...]  # in the order in which diffusers loads them, as published indexes have it
    values: tuple[ConfigValue, ...]
    text_width: TextWidth
    takes_guidance: Callable[[Path], bool]  # whether the base in a folder takes it; others can only generate
    takes_references: bool  # whether bases of this kind see reference images beside the prompt
    sizes: Mapping[int, str] = field(default_factory=dict)  # width of the transformer -> what follows the name


def _has_guidance_embedding(folder: Path) -> bool:
    return bool(json_object(folder / TRANSFORMER).get("guidance_embeds"))


def _is_not_distilled(folder: Path) -> bool:
    """Whether diffusers guides the base with a second pass; as in its pipeline, a missing value counts as false."""
    return not json_object(folder / INDEX).get("is_distilled")


SCHEDULER = ComponentFiles("scheduler", "scheduler_config.json")
TEXT_ENCODER = ComponentFiles("text_encoder", "config.json", "model.safetensors")
DENOISER_AND_VAE = (
    ComponentFiles("transformer", "config.json", "diffusion_pytorch_model.safetensors"),
    ComponentFiles("vae", "config.json", "diffusion_pytorch_model.safetensors"),
)
BPE_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"))

FLUX1 = BaseKind(
    name="FLUX.1",
    pipelines=("FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline"),
    transformer="FluxTransformer2DModel",
    vae="AutoencoderKL",
    components=(
        SCHEDULER,
        TEXT_ENCODER,
        ComponentFiles("text_encoder_2", "config.json", "model.safetensors"),
        ComponentFiles("tokenizer", "tokenizer_config.json", vocabularies=BPE_FILES),
        ComponentFiles("tokenizer_2", "tokenizer_config.json", vocabularies=(("tokenizer.json",), ("spiece.model",))),
        *DENOISER_AND_VAE,
    ),
    values=(
        ConfigValue(
            file=TRANSFORMER,
            name="in_channels",
            value=64,  # 16 channels of latents in patches of 2 x 2
            others={384: "FLUX.1 Fill", 128: "FLUX.1 Canny or Depth", 16: "Stable Diffusion 3"},
        ),
    ),
    text_width=TextWidth("text_encoder_2/config.json", "d_model", 1),
    takes_guidance=_has_guidance_embedding,
    takes_references=False,
)
KLEIN = BaseKind(
    name="FLUX.2 [klein]",
    pipelines=("Flux2KleinPipeline", "Flux2KleinInpaintPipeline"),
    transformer="Flux2Transformer2DModel",
    vae="AutoencoderKLFlux2",
    components=(
        SCHEDULER,
        TEXT_ENCODER,
        ComponentFiles("tokenizer", "tokenizer_config.json", vocabularies=BPE_FILES, has_chat_template=True),
        *DENOISER_AND_VAE,
    ),
    values=(
        ConfigValue(file=TRANSFORMER, name="in_channels", value=128),  # 32 channels of latents in patches of 2 x 2
        ConfigValue(file=TRANSFORMER, name="guidance_embeds", value=False, default=True, others={True: "FLUX.2-dev"}),
        ConfigValue(file=TEXT, name="model_type", value="qwen3"),
    ),
    # the pipeline puts the states of three layers side by side
    text_width=TextWidth(TEXT, "hidden_size", 3),
    takes_guidance=_is_not_distilled,
    takes_references=True,
    sizes={3072: "4B", 4096: "9B"},
)
KINDS = (FLUX1, KLEIN)


def kind_of(folder: Path) -> BaseKind:
    """Return the kind of base that the index of a folder names.

    Raises FileNotFoundError without an index and ValueError for one that is damaged or names no pipeline, or another
    one, with a sentence that starts with the path of the file.
    """
    file = folder / INDEX
    found = json_object(file).get(CLASS)
    kind = _kind_with_pipeline(found)
    if kind is None and isinstance(found, str):
        raise ValueError(f"{file} has the class {quoted(found)}{_of(MODELS.get(found))}: {EXPECTED}")
    if kind is None:
        raise ValueError(
            f"{file} names no pipeline: expected {CLASS} with {' or '.join(k.pipelines[0] for k in KINDS)}"
        )
    return kind


def model_name(folder: Path) -> str:
    """Return the name of the kind of base that a folder holds, with its size if there are several and it is one of
    them, such as FLUX.2 [klein] 4B; raises like `kind_of`."""
    kind, config = kind_of(folder), _config(folder / TRANSFORMER)
    heads, head_width = config.get("num_attention_heads"), config.get("attention_head_dim")
    width = heads * head_width if isinstance(heads, int) and isinstance(head_width, int) else 0
    return f"{kind.name} {kind.sizes.get(width, '')}".strip()


def named_kind(folder: Path) -> BaseKind | None:
    """Return the kind of base that the index of a folder names; None if it is missing, damaged or names no pipeline.

    Raises ValueError for another pipeline, with a sentence that starts with the path of the file.
    """
    return kind_of(folder) if isinstance(_config(folder / INDEX).get(CLASS), str) else None


def check_kind(folder: Path) -> None:
    """Check that a folder holds one kind of base, as far as its configurations are there.

    Raises ValueError, with a sentence that starts with the path of a file, for another model, and for components of
    different models: by their classes, and by values that differ where the classes do not, as in Fill and Canny.
    """
    kind = named_kind(folder) or _kind_with_transformer(_config(folder / TRANSFORMER).get(CLASS))
    _check_class(folder / TRANSFORMER, kind.transformer, kind)
    _check_class(folder / VAE, kind.vae, kind)
    for value in kind.values:
        _check_value(folder / value.file, value, kind)
    _check_text_width(folder, kind.text_width)


def _kind_with_pipeline(name: object) -> BaseKind | None:
    return next((kind for kind in KINDS if name in kind.pipelines), None)


def _kind_with_transformer(name: object) -> BaseKind:
    """The kind of a folder whose index is not there yet."""
    return next((kind for kind in KINDS if name == kind.transformer), FLUX1)


def _check_class(file: Path, expected: str, kind: BaseKind) -> None:
    found = _config(file).get(CLASS)
    if isinstance(found, str) and found != expected:
        of = _of(next((each.name for each in KINDS if found in (each.transformer, each.vae)), None))
        raise ValueError(f"{file} has the class {quoted(found)}{of}: {_components_of(kind)}")


def _check_value(file: Path, expected: ConfigValue, kind: BaseKind) -> None:
    config = _config(file)
    found = config.get(expected.name, expected.default) if config else None
    if found is not None and found != expected.value:
        shown = quoted(found) if isinstance(found, str) else f"{found!r:.60}"
        of = _of(next((model for value, model in expected.others.items() if value == found), None))
        raise ValueError(f"{file} has {shown} for {expected.name}, not {expected.value}{of}: {_components_of(kind)}")


def _check_text_width(folder: Path, width: TextWidth) -> None:
    """Refuse the text encoder of another size, such as that of klein 9B beside the transformer of klein 4B."""
    taken, given = (
        _config(folder / TRANSFORMER).get("joint_attention_dim"),
        _config(folder / width.file).get(width.name),
    )
    if isinstance(taken, int) and isinstance(given, int) and taken != given * width.factor:
        found = f"has {taken} for joint_attention_dim, and {width.file} has {given} for {width.name}"
        raise ValueError(
            f"{folder / TRANSFORMER} {found}, not {taken / width.factor:g}: expected all components of one base"
        )


def _components_of(kind: BaseKind) -> str:
    return f"expected all components of one base, {kind.name}"


def _of(model: str | None) -> str:
    return f", that of {model}" if model else ""


def _config(file: Path) -> dict[str, object]:
    """Return the content of a file; nothing if it is missing or damaged, which `check_folder` reports."""
    try:
        return json_object(file)
    except (OSError, ValueError):
        return {}
