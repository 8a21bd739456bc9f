"""The prediction interface: one signature, then the prediction."""

from typing import Optional

from cog import BaseRunner, Input, Path

from lora.flux.loading import load_pipeline
from lora.serving.closet import Closet
from lora.serving.drawing import draw
from lora.serving.outfit import Wish, wishes
from lora.serving.outputs import save_images, text_of
from lora.serving.prompts import Prompts
from lora.serving.request import Request
from lora.serving.safety import SafetyChecker, allowed
from lora.serving.sources import read_source
from lora.serving.wardrobe import Wardrobe, Worn
from lora.workspace import workspace
from weights.bases import check_base, find_base
from weights.references import read_lora
from weights.safety import find_safety


class Runner(BaseRunner):
    """FLUX.1, wearing whichever LoRAs a request names."""

    def setup(self, weights: Optional[Path] = None) -> None:
        """Load the base model, and the LoRA of a trained version (COG_WEIGHTS) if there is one."""
        self.closet = Closet()
        self.trained = str(weights) if weights else None
        if self.trained:
            self._worn(Wish(self.trained, 1.0, "COG_WEIGHTS"))
        safety = find_safety()
        print(safety.line())
        self.checker = SafetyChecker(safety.folder) if safety.folder else None
        self.can_disable_checker = safety.can_be_disabled
        self.base = find_base()
        check_base(self.base)
        self.pipeline = load_pipeline(self.base.path)
        self.wardrobe, self.prompts = Wardrobe(self.pipeline), Prompts(self.pipeline)

    def healthcheck(self) -> bool:
        """Whether the base is still what was loaded, whatever was worn."""
        return self.wardrobe.is_sound

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
        # How to draw it
        aspect_ratio: str = Input(
            description="Shape of the image; custom takes width and height",
            default="1:1",
            choices=["1:1", "16:9", "21:9", "3:2", "2:3", "4:5", "5:4", "3:4", "4:3", "9:16", "9:21", "custom"],
        ),
        width: Optional[int] = Input(description="Width in pixels, for a custom shape", default=None, ge=64, le=1440),
        height: Optional[int] = Input(description="Height in pixels, for a custom shape", default=None, ge=64, le=1440),
        megapixels: str = Input(description="Size of the image, about", default="1", choices=["1", "0.25"]),
        num_outputs: int = Input(description="Images to draw", default=1, ge=1, le=4),
        num_inference_steps: int = Input(description="Denoising steps", default=28, ge=1, le=50),
        guidance_scale: Optional[float] = Input(
            description="How closely to follow the prompt; 3.5 if not given", default=None, ge=0.0, le=10.0
        ),
        guidance: Optional[float] = Input(description="Another name for guidance_scale", default=None, ge=0.0, le=10.0),
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
        request = Request.checked(
            prompt=prompt,
            aspect_ratio=aspect_ratio,
            width=width,
            height=height,
            megapixels=megapixels,
            num_outputs=num_outputs,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            guidance=guidance,
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
            replicate_weights=replicate_weights or self.trained,
        )
        source = read_source(image, mask, prompt_strength)
        outfit = [self._worn(wish) for wish in asked]
        settings = request.settings() | {
            "model": self.base.name,
            "loras": [(worn.digest, worn.scale) for worn in outfit if worn.scale],
        }
        print(f"settings: {text_of(settings)}")
        self.wardrobe.wear(outfit)
        with workspace("predict") as folder:
            checker = None if disable_safety_checker and self.can_disable_checker else self.checker
            encoded = self.prompts.encode(request.prompt, worn=self.wardrobe.on_text_encoders)
            shown = allowed(list(draw(self.pipeline, request, source, prompt=encoded)), checker)
            if len(shown) < request.num_outputs:
                print(f"blocked by the safety checker: all images but {', '.join(str(place + 1) for place in shown)}")
            return [Path(path) for path in save_images(shown, request, settings, into=folder)]

    def _worn(self, wish: Wish) -> Worn:
        """A LoRA that was asked for."""
        lora = read_lora(wish.reference, named=wish.named)
        return Worn(lora.digest, self.closet.lora(lora.digest, lora.tensors), wish.scale)
