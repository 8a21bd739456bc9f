"""The prediction interface: one signature, then the stages of a prediction from top to bottom."""

from lora.garbage import collect_garbage_again

# isort: split
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Optional

import coglet
from cog import BaseRunner, Input, Path, Secret, current_scope
from huggingface_hub import get_token

from lora.checks import check_secret
from lora.families.registry import family_of
from lora.gpu import check_gpu
from lora.heap import trim_heap
from lora.parent_server import ParentServer
from lora.serving.inputs import PredictionInputs, complete_inputs, receive_uploads
from lora.serving.lora_cache import LoraCache
from lora.serving.lora_merger import AppliedLora
from lora.serving.models import Model, Models
from lora.serving.prediction import predict
from lora.serving.reference_images import given_references
from lora.serving.requested_loras import TRAINED, RequestedLora
from lora.serving.safety import SafetyChecker
from lora.serving.setup_times import StageTimer
from lora.serving.usage import Usage
from lora.threads import protect_new_threads
from lora.workspace import own_temporary_folder, workspace
from weights.base_files import weight_files
from weights.bases import (
    Base,
    check_base,
    check_takes_references,
    find_base,
    model_of,
    requested_base,
    takes_guidance,
    with_remedy,
)
from weights.checker import find_safety
from weights.local_files import EVERYWHERE, ReadableFolders
from weights.network.network import Tokens
from weights.readahead import read_ahead
from weights.references import open_lora
from weights.sources.hub import TOKEN_INPUT

collect_garbage_again()
protect_new_threads()


class Runner(BaseRunner):
    """Generates images with FLUX.1 or FLUX.2 [klein], and the LoRAs that a request names."""

    is_set_up = False

    def setup(self, weights: Optional[Path] = None) -> None:
        """Load the base model, and the LoRA of a trained version (COG_WEIGHTS) if there is one."""
        timer = StageTimer("setup")
        if coglet.server.active:
            ParentServer().end_if_this_process_dies()
        self.files = own_temporary_folder("inputs")
        self.readable = ReadableFolders.of_deployment()
        self.lora_cache, self.models = LoraCache(), Models(log_line=self.log)
        self.trained_reference = str(weights or "").strip()
        self.trained_lora: AppliedLora | None = None
        with timer.stage("base found"):
            self.base, safety = find_base(check_gpu, log_line=self.log), find_safety()
        with timer.stage("weights checked"):
            check_base(self.base, log_line=self.log)
        with read_ahead(weight_files(self.base.path)):
            if self.trained_reference:
                with timer.stage("LoRA of this version read"):
                    self.read_trained_lora(self.trained_reference)
            with timer.stage("safety checker loaded"):
                self.checker = SafetyChecker(safety.folder) if safety.folder else None
            with timer.stage("base loaded"), with_remedy(self.base):
                model = self.models.model(self.base.path)
        if self.trained_lora:
            model.apply([self.trained_lora])  # an incompatible LoRA fails here, and the first request finds it applied
        self.can_disable_checker = safety.can_be_disabled
        self.is_set_up = True
        print(safety.line(), timer.line(), sep="\n")

    def log(self, line: str) -> None:
        """Print a line of the log. The handler of another server may follow it: an error that it raises ends a request
        after the step that it was in."""
        print(line)

    def read_trained_lora(self, reference: str) -> None:
        """Read the LoRA that requests apply if they name no other; a private one with HF_TOKEN, or with the token of
        `hf auth login`."""
        tokens = Tokens(hugging_face=get_token() or "")
        try:
            self.trained_lora = self._load_lora(RequestedLora(reference, 1.0, TRAINED), self.base, tokens)
        except ValueError as error:  # no request brings this token
            raise ValueError(str(error).replace(TOKEN_INPUT, "HF_TOKEN")) from error
        self.trained_reference = reference

    def healthcheck(self) -> bool:
        """Whether the weights of all loaded base models were restored exactly each time that LoRAs were removed."""
        return self.models.are_intact

    def run(
        self,
        # What to generate
        prompt: str = Input(description="What to generate; include the trigger word of the LoRA"),
        negative_prompt: Optional[str] = Input(
            description="What not to generate; used by klein and klein-9b with a guidance_scale above 1", default=None
        ),
        image: Optional[Path] = Input(
            description="Source image for image to image; the output has its aspect ratio", default=None
        ),
        mask: Optional[Path] = Input(
            description="Inpainting mask for image: white is regenerated, black is kept", default=None
        ),
        prompt_strength: float = Input(
            description="How much of image is replaced: 0 keeps it, 1 ignores it", default=0.8, ge=0.0, le=1.0
        ),
        reference_images: list[Path] = Input(
            description="Up to 4 images to edit, or to take people, things or a style from; used by klein bases",
            default=[],
        ),
        # Which LoRAs
        lora_weights: Optional[str] = Input(
            description="LoRA to apply: name on Hugging Face, Civitai or Replicate, URL, file, or data URI",
            default=None,
        ),
        lora_scale: float = Input(
            description="Strength of the LoRA: 1 as trained, 0 off, -1 subtracts it", default=1.0, ge=-1.0, le=3.0
        ),
        extra_lora: Optional[str] = Input(description="A second LoRA, applied together with the first", default=None),
        extra_lora_scale: float = Input(
            description="Strength of extra_lora, from -1 to 3", default=1.0, ge=-1.0, le=3.0
        ),
        loras: list[str] = Input(description="Up to 16 more LoRAs, each as reference or reference:scale", default=[]),
        replicate_weights: Optional[str] = Input(
            description="Set by Replicate for trained models; lora_weights takes precedence", default=None
        ),
        hf_api_token: Optional[Secret] = Input(description="Hugging Face token, for private LoRAs", default=None),
        civitai_api_token: Optional[Secret] = Input(
            description="Civitai token, for LoRAs that require a login", default=None
        ),
        # How to generate it
        model: Optional[str] = Input(
            description="Base model to use, if it is installed on the server",
            default=None,
            choices=["dev", "schnell", "krea", "klein", "klein-9b", "klein-distilled"],
        ),
        aspect_ratio: Optional[str] = Input(
            description="Aspect ratio; custom uses width and height. By default that of a reference image, or 1:1",
            default=None,
            choices=[
                "1:1",
                "16:9",
                "21:9",
                "3:2",
                "2:3",
                "4:5",
                "5:4",
                "3:4",
                "4:3",
                "9:16",
                "9:21",
                "match_input_image",
                "custom",
            ],
        ),
        width: Optional[int] = Input(
            description="Width in pixels, for aspect_ratio custom, e.g. 768", default=None, ge=64, le=1440
        ),
        height: Optional[int] = Input(
            description="Height in pixels, for aspect_ratio custom, e.g. 1024", default=None, ge=64, le=1440
        ),
        megapixels: str = Input(
            description="Approximate size of the image in megapixels", default="1", choices=["1", "0.25"]
        ),
        num_outputs: int = Input(description="Number of images", default=1, ge=1, le=4),
        num_inference_steps: Optional[int] = Input(
            description="Number of denoising steps; 28 by default, 50 for klein, 4 for distilled bases",
            default=None,
            ge=1,
            le=50,
        ),
        guidance_scale: Optional[float] = Input(
            description="How closely to follow the prompt; 3.5 by default, 4 for klein", default=None, ge=0.0, le=10.0
        ),
        go_fast: bool = Input(
            description="Compute in 8 bits: faster on a GPU, with slightly different pixels", default=False
        ),
        seed: Optional[int] = Input(
            description="Seed of the first image; image i uses seed + i - 1. Random by default and if below 0",
            default=None,
        ),
        disable_safety_checker: bool = Input(
            description="Turn off the safety checker, if the server allows it", default=False
        ),
        # How to save it
        output_format: str = Input(description="File format", default="webp", choices=["webp", "jpg", "png"]),
        output_quality: int = Input(description="Quality of webp and jpg, from 0 to 100", default=90, ge=0, le=100),
        # For clients of other predictors
        guidance: Optional[float] = Input(
            description="Another name for guidance_scale, as in black-forest-labs/flux-dev-lora",
            default=None,
            ge=0.0,
            le=10.0,
        ),
        hf_lora: Optional[str] = Input(
            description="Another name for lora_weights, as in lucataco/flux-dev-lora", default=None
        ),
        hf_loras: list[str] = Input(
            description="More LoRAs by reference, as in lucataco/flux-dev-multi-lora", default=[]
        ),
        lora_scales: list[float] = Input(
            description="Strengths of hf_loras, in the same order, or one for all; 0.8 by default", default=[]
        ),
        lora_strength: Optional[float] = Input(
            description="Another name for lora_scale, as in black-forest-labs/flux-kontext-dev-lora",
            default=None,
            ge=-1.0,
            le=3.0,
        ),
        images: list[Path] = Input(
            description="Another name for reference_images, as in black-forest-labs/flux-2-klein-4b", default=[]
        ),
    ) -> list[Path]:
        """Generate images from a prompt."""
        return self.generate({name: value for name, value in locals().items() if name != "self"})

    def generate(self, inputs: Mapping[str, Any]) -> list[Path]:
        """Generate images from inputs by name; an input that is missing has its default in `run`.

        Everything that generates comes through here: Cog's server, plain Python, the handler of another server. Loads
        the model first if `setup` was not called. Raises ValueError with one sentence about a wrong input.
        """
        if not self.is_set_up:
            self.setup()
        trim_heap()
        uploads = ReadableFolders.of_uploads(self.files)
        inputs = receive_uploads(complete_inputs(inputs, entry=Runner.run), folder=self.files, readable=uploads)
        base = requested_base(inputs["model"], served=self.base, check=check_gpu)
        if named := given_references(inputs):
            check_takes_references(base, named)
        sampling = family_of(base.path).sampling
        prediction = PredictionInputs.checked(
            inputs,
            defaults=sampling.defaults_of(takes_guidance=takes_guidance(base)),
            trained=self.trained_reference,
            references=sampling.references,
        )
        checker = None if prediction.is_checker_disabled and self.can_disable_checker else self.checker
        tokens = Tokens(*(check_secret(name, inputs[name]) for name in ("hf_api_token", "civitai_api_token")))
        usage = Usage()
        with usage.on_loras():
            loras = [self._load_lora(lora, base, tokens) for lora in prediction.loras]
        model = self._load_model(base)
        with workspace("predict") as folder:
            paths = predict(
                prediction,
                model,
                loras,
                base_name=base.name,
                checker=checker,
                log_line=self.log,
                usage=usage,
                record_metric=current_scope().record_metric,
                into=folder,
            )
        return [Path(path) for path in paths]

    def _load_model(self, base: Base) -> Model:
        """Return a base model; check its files before it is loaded."""
        if base != self.base:
            check_base(base, log_line=self.log)
        with with_remedy(base):
            return self.models.model(base.path)

    def _load_lora(self, requested: RequestedLora, base: Base, tokens: Tokens) -> AppliedLora:
        """Read a requested LoRA for a base; that of a trained version was read in setup, and its file may be gone."""
        if self.trained_lora and requested.named == TRAINED:
            return replace(self.trained_lora, scale=requested.scale)
        readable = EVERYWHERE if requested.named == TRAINED else self.readable  # the deployment gave it, no client
        with open_lora(
            requested.reference,
            named=requested.named,
            tokens=tokens,
            readable=readable,
            base_model=model_of(base),
        ) as file:
            cached = self.lora_cache.lora(file.cache_key, file.read, family_of(base.path).layer_names)
        for note in cached.notes:
            self.log(f"{file.named} {note}")
        return AppliedLora(cached.digest, cached.lora, requested.scale, file.named)
