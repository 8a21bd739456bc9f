"""The prediction interface: one signature, then the prediction."""

from typing import Optional

from cog import BaseRunner, Input, Path

from lora.flux.loading import load_pipeline
from lora.serving.drawing import draw
from lora.serving.outputs import save_images
from lora.serving.request import Request
from lora.serving.wardrobe import Wardrobe
from lora.workspace import workspace
from weights.bases import find_base
from weights.references import Lora, read_lora


class Runner(BaseRunner):
    """FLUX.1, wearing whichever LoRA a request names."""

    def setup(self, weights: Optional[Path] = None) -> None:
        """Load the base model, and the LoRA of a trained version (COG_WEIGHTS) if there is one."""
        self.trained = read_lora(str(weights), named="COG_WEIGHTS") if weights else None
        self.pipeline = load_pipeline(find_base().path)
        self.wardrobe = Wardrobe(self.pipeline)

    def run(
        self,
        # What to draw
        prompt: str = Input(description="What to draw; use the trigger word of the LoRA"),
        # Which LoRA
        lora_weights: Optional[str] = Input(description="A LoRA: a .safetensors or .tar, or a data URI", default=None),
        lora_scale: float = Input(description="Strength: 0 is the base, -1 subtracts", default=1.0, ge=-1.0, le=3.0),
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
        num_outputs: int = Input(description="Images to draw", default=1, ge=1, le=4),
        num_inference_steps: int = Input(description="Denoising steps", default=28, ge=1, le=50),
        guidance_scale: float = Input(description="How closely to follow the prompt", default=3.5, ge=0.0, le=10.0),
        seed: Optional[int] = Input(
            description="Seed of image 1; image i has seed + i - 1", default=None, ge=0, le=2147483647
        ),
        # How to save it
        output_format: str = Input(description="File format", default="webp", choices=["webp", "jpg", "png"]),
        output_quality: int = Input(description="Quality of webp and jpg", default=90, ge=0, le=100),
    ) -> list[Path]:
        """Draw a prompt."""
        request = Request.checked(
            prompt=prompt,
            lora_scale=lora_scale,
            aspect_ratio=aspect_ratio,
            width=width,
            height=height,
            num_outputs=num_outputs,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            seed=seed,
            output_format=output_format,
            output_quality=output_quality,
        )
        print(f"seed: {request.seed}")
        lora = self._lora(lora_weights, replicate_weights)
        if lora is None:
            self.wardrobe.take_off()
        else:
            self.wardrobe.wear(lora.tensors, name=lora.digest, scale=request.lora_scale)
        images = draw(self.pipeline, request)
        with workspace("predict") as folder:
            return [Path(path) for path in save_images(images, request, into=folder)]

    def _lora(self, lora_weights: str | None, replicate_weights: str | None) -> Lora | None:
        """The LoRA that a request asks for; without one, that of the trained version."""
        if lora_weights:
            return read_lora(lora_weights, named="lora_weights")
        if replicate_weights:
            return read_lora(replicate_weights, named="replicate_weights")
        return self.trained
