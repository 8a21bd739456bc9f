"""The prediction interface: one signature, then the prediction."""

from dataclasses import replace
from typing import Optional

from cog import BaseRunner, Input, Path, Secret

from lora.checks import yes_or_no
from lora.heap import trim_heap
from lora.serving.generation import output_size
from lora.serving.lora_cache import LoraCache
from lora.serving.lora_merger import AppliedLora
from lora.serving.models import Model, Models
from lora.serving.notes import notes
from lora.serving.outputs import save_images, text_of
from lora.serving.request import Request
from lora.serving.requested_loras import TRAINED, RequestedLora, wishes
from lora.serving.safety import SafetyChecker, allowed
from lora.serving.settings import settings_of
from lora.serving.setup_times import StageTimer
from lora.serving.sources import read_source
from lora.workspace import clear, own_temporary_folder, sent, workspace
from weights.base_files import weight_files
from weights.bases import Base, check_base, find_base, requested_base, takes_guidance, with_remedy
from weights.network.network import Tokens
from weights.readahead import read_ahead
from weights.references import open_lora
from weights.safety import find_safety


class Runner(BaseRunner):
    """FLUX.1, wearing whichever LoRAs a request names."""

    def setup(self, weights: Optional[Path] = None) -> None:
        """Load the base model, and the LoRA of a trained version (COG_WEIGHTS) if there is one."""
        stages = StageTimer("setup")
        self.files = own_temporary_folder("inputs")
        self.lora_cache, self.models = LoraCache(), Models(say=print)
        self.trained = str(weights or "").strip()
        self.own: AppliedLora | None = None
        self.base, safety = find_base(), find_safety()
        with stages.stage("weights checked"):
            check_base(self.base)
        with read_ahead(weight_files(self.base.path)):
            if self.trained:
                with stages.stage("LoRA of this version read"):
                    self.own = self._worn(RequestedLora(self.trained, 1.0, TRAINED), Tokens())
            with stages.stage("safety checker loaded"):
                self.checker = SafetyChecker(safety.folder) if safety.folder else None
            with stages.stage("base loaded"), with_remedy(self.base):
                model = self.models.model(self.base.path)
        if self.own:
            model.wear([self.own])  # what does not fit fails here, and the first request finds it worn
        self.can_disable_checker = safety.can_be_disabled
        print(safety.line(), stages.line(), sep="\n")

    def healthcheck(self) -> bool:
        """Whether the base is still what was loaded, whatever was worn."""
        return self.models.are_intact

    def run(
        self,
        # What to draw
        prompt: str = Input(description="What to draw; use the trigger word of the LoRA"),
        image: Optional[Path] = Input(
            description="An image to begin with; its shape is that of the result", default=None
        ),
        mask: Optional[Path] = Input(
            description="What of the image is drawn anew: white; without, all of it", default=None
        ),
        prompt_strength: float = Input(
            description="How much of the image is forgotten: 1 is all", default=0.8, ge=0.0, le=1.0
        ),
        # Which LoRAs
        lora_weights: Optional[str] = Input(description="A LoRA: a .safetensors or .tar, or a data URI", default=None),
        lora_scale: float = Input(description="Strength: 0 is the base, -1 subtracts", default=1.0, ge=-1.0, le=3.0),
        extra_lora: Optional[str] = Input(description="Another LoRA, worn beside the first", default=None),
        extra_lora_scale: float = Input(description="Strength of extra_lora", default=1.0, ge=-1.0, le=3.0),
        loras: list[str] = Input(description="More LoRAs, each as reference or reference:scale", default=[]),
        replicate_weights: Optional[str] = Input(
            description="As lora_weights, which wins over it; set by Replicate", default=None
        ),
        hf_api_token: Optional[Secret] = Input(
            description="Lets you in to private models on Hugging Face", default=None
        ),
        civitai_api_token: Optional[Secret] = Input(description="Lets you in to what Civitai asks for", default=None),
        # How to draw it
        model: Optional[str] = Input(
            description="Another base that is there", default=None, choices=["dev", "schnell", "krea"]
        ),
        aspect_ratio: str = Input(
            description="Shape of the image; custom takes width and height",
            default="1:1",
            choices=["1:1", "16:9", "21:9", "3:2", "2:3", "4:5", "5:4", "3:4", "4:3", "9:16", "9:21", "custom"],
        ),
        width: Optional[int] = Input(description="Width in pixels, for a custom shape", default=None, ge=64, le=1440),
        height: Optional[int] = Input(description="Height in pixels, for a custom shape", default=None, ge=64, le=1440),
        megapixels: str = Input(description="Size of the image, about", default="1", choices=["1", "0.25"]),
        num_outputs: int = Input(description="Images to draw", default=1, ge=1, le=4),
        num_inference_steps: Optional[int] = Input(
            description="Denoising steps; 28 if not given, 4 for schnell", default=None, ge=1, le=50
        ),
        guidance_scale: Optional[float] = Input(
            description="How closely to follow the prompt; 3.5 if not given", default=None, ge=0.0, le=10.0
        ),
        guidance: Optional[float] = Input(description="Another name for guidance_scale", default=None, ge=0.0, le=10.0),
        go_fast: bool = Input(description="Draw in 8 bits: faster on a GPU, and nearly the same pixels", default=False),
        seed: Optional[int] = Input(
            description="Seed of image 1; image i has seed + i - 1", default=None, ge=-1, le=4294967295
        ),
        disable_safety_checker: bool = Input(
            description="Draw without the safety checker, where that is allowed", default=False
        ),
        # How to save it
        output_format: str = Input(description="File format", default="webp", choices=["webp", "jpg", "png"]),
        output_quality: int = Input(description="Quality of webp and jpg", default=90, ge=0, le=100),
    ) -> list[Path]:
        """Draw a prompt."""
        trim_heap()
        image, mask = sent(self.files, "image", image), sent(self.files, "mask", mask)
        clear(self.files, keep=(image, mask))
        base = requested_base(model, served=self.base)
        request = Request.checked(
            takes_guidance=takes_guidance(base),
            prompt=prompt,
            aspect_ratio=aspect_ratio,
            width=width,
            height=height,
            megapixels=megapixels,
            num_outputs=num_outputs,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            guidance=guidance,
            go_fast=go_fast,
            seed=seed,
            output_format=output_format,
            output_quality=output_quality,
        )
        asked = wishes(
            lora_weights=lora_weights,
            lora_scale=lora_scale,
            extra_lora=extra_lora,
            extra_lora_scale=extra_lora_scale,
            loras=loras,
            replicate_weights=replicate_weights,
            trained=self.trained,
        )
        source = read_source(image, mask, prompt_strength)
        checker = self._checker(disable_safety_checker)
        tokens = Tokens(_token("hf_api_token", hf_api_token), _token("civitai_api_token", civitai_api_token))
        outfit = [self._worn(wish, tokens) for wish in asked]
        artist = self._artist(base)
        size = output_size(artist.pipeline, request, source)
        for note in notes(artist.pipeline, request, source, size, width=width, height=height):
            print(f"note: {note}")
        settings = settings_of(request, source, size, model=base.name, image=image, mask=mask, outfit=outfit)
        print(f"settings: {text_of({**settings, 'seeds': request.seeds})}")
        with workspace("predict") as folder:
            shown = allowed(list(artist.draw(request, source, outfit)), checker)
            if blocked := [place + 1 for place in range(request.num_outputs) if place not in shown]:
                print(f"blocked by the safety checker: image {', '.join(map(str, blocked))} of {request.num_outputs}")
            return [Path(path) for path in save_images(shown, request, settings, into=folder)]

    def _checker(self, disabled: object) -> SafetyChecker | None:
        """Who judges the images: nobody, if that is what the request wants and may."""
        is_off = yes_or_no("disable_safety_checker", disabled) and self.can_disable_checker
        return None if is_off else self.checker

    def _artist(self, base: Base) -> Model:
        """A base that was asked for, checked before it is loaded."""
        if base != self.base:
            check_base(base)
        with with_remedy(base):
            return self.models.model(base.path)

    def _worn(self, wish: RequestedLora, tokens: Tokens) -> AppliedLora:
        """A LoRA that was asked for; that of a trained version as the setup read it, wherever its file is by now."""
        if self.own and wish.named == TRAINED:
            return replace(self.own, scale=wish.scale)
        with open_lora(wish.reference, named=wish.named, tokens=tokens) as file:
            kept = self.lora_cache.lora(file.stamp, file.read)
        return AppliedLora(kept.digest, kept.lora, wish.scale, file.named)


def _token(name: str, given: object) -> str:
    """Of a token that is none, only its name is repeated."""
    value = given.get_secret_value() if isinstance(given, Secret) else given
    if not isinstance(value, str | None):
        raise ValueError(f"{name} is of type {type(value).__name__}: expected text")
    return (value or "").strip()
