"""How to use a LoRA with other programs, for its model card and its report page."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

LORA_FILE = "lora.safetensors"
TAR_FOLDER = "output/flux_train_replicate"  # in the tar of a training


@dataclass(frozen=True, slots=True)
class BaseModel:
    """The base of a LoRA, and how images are generated with it."""

    name: str  # in a sentence
    repository: str | None  # on the Hub; None for a base that is not there
    folder: str  # what stands for the repository where there is none
    pipeline: str  # its class in diffusers
    steps: int  # of denoising
    guidance: float
    arguments: Mapping[str, int]  # of the pipeline, such as the size in pixels, where its own are not right


def diffusers_usage(base: BaseModel, repository: str | None, prompt: str, *, edits: bool) -> Iterator[str]:
    """The program of `diffusers_program`, and where to run it."""
    yield "### diffusers\n"
    if repository is None:
        yield "In the folder in which the tar is unpacked (`tar -xf trained_model.tar`):\n"
    yield f"```python\n{diffusers_program(base, repository, prompt, edits=edits)}```\n"


def diffusers_program(base: BaseModel, repository: str | None, prompt: str, *, edits: bool) -> str:
    """A program that runs as it stands, with the LoRA from the Hub, or from the unpacked tar without a repository. If
    the LoRA `edits`, the program takes the image to edit, and the prompt is the instruction."""
    chosen = {"num_inference_steps": base.steps, **base.arguments}
    arguments = "".join(f", {name}={value}" for name, value in chosen.items())
    imported = "from diffusers.utils import load_image\n" if edits else ""
    image = 'image=[load_image("before.png")], ' if edits else ""
    base_source, lora_source = _quoted(base.repository or base.folder), _quoted(repository or TAR_FOLDER)
    return (
        "import torch\n"
        f"from diffusers import {base.pipeline}\n{imported}\n"
        'device = "cuda" if torch.cuda.is_available() else "cpu"\n'
        f"pipe = {base.pipeline}.from_pretrained({base_source}, torch_dtype=torch.bfloat16)\n"
        "pipe.to(device)  # with too little GPU memory: pipe.enable_model_cpu_offload()\n"
        f'pipe.load_lora_weights({lora_source}, weight_name="{LORA_FILE}", adapter_name="lora")\n'
        'pipe.set_adapters(["lora"], [1.0])  # the strength\n'
        f"prompt = {_quoted(prompt)}\n"
        f"image = pipe({image}prompt=prompt, guidance_scale={base.guidance}{arguments}).images[0]\n"
        'image.save("image.png")\n'
    )


def comfyui_usage(repository: str | None) -> Iterator[str]:
    """Where ComfyUI expects the file, and the node that loads it."""
    yield "### ComfyUI\n"
    command = (
        f"hf download {repository} {LORA_FILE} --local-dir ComfyUI/models/loras"
        if repository
        else f"cp {TAR_FOLDER}/{LORA_FILE} ComfyUI/models/loras"
    )
    yield f"```sh\n{command}\n```\n"
    yield (
        "Add the node LoraLoaderModelOnly between the node that loads the FLUX model and the sampler, with `lora_name`"
        f" {LORA_FILE} and `strength_model` 1.0.\n"
    )


def _quoted(text: str) -> str:
    """Text as a literal of Python, in double quotes as in the rest of the program where that is possible."""
    return f'"{text}"' if text.isprintable() and not set(text) & {'"', "\\"} else repr(text)
