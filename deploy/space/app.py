"""Serves a page that generates with a LoRA: the same image without and with it, on a Space or on your own machine.

LORA names the LoRA, in any form that `lora_weights` takes; without it the page has a field for one. HF_TOKEN gives
access to a private LoRA of LORA, and never to one that a visitor names.
"""

import spaces  # before torch, of which it replaces parts on ZeroGPU; elsewhere it does nothing

# isort: split
import os
import sys
import tempfile

from deploy.space.base_settings import base_settings
from deploy.space.cancellations import Cancellations
from deploy.space.card import LoraCard, hub_repository, local_card, published_card
from deploy.space.generation import Comparer
from deploy.space.page import LOOK, page_of
from deploy.space.page_requests import PageRequests
from lora.engine.options import ENGINE_VARIABLE
from lora.serving.requested_loras import TRAINED
from predict import Runner

SETTING, TOKEN = "LORA", "HF_TOKEN"
GPU_SECONDS = 120  # that ZeroGPU reserves for both images: our choice, not measured
LONGEST_QUEUE = 30


def main() -> None:
    """Load the base model and the LoRA, and serve the page until stopped."""
    # Not in the predictor's own folder, which each request clears.
    os.environ.setdefault("GRADIO_TEMP_DIR", tempfile.mkdtemp(prefix="flux-lora-page-"))
    reference = os.environ.get(SETTING, "").strip()
    try:
        runner = loaded(reference)
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        sys.exit(f"error: {str(error).replace(TRAINED, SETTING, 1)}")
    compare = spaces.GPU(Comparer(runner).compare, duration=GPU_SECONDS)
    base = base_settings(runner.base)
    requests = PageRequests(compare, bool(reference), base.model, Cancellations())
    page = page_of(requests, reference, card_of(reference), base)
    page.queue(max_size=LONGEST_QUEUE, default_concurrency_limit=1)
    page.launch(**LOOK)


def loaded(reference: str) -> Runner:
    """A predictor with its base model, and the LoRA if one is named. Raises what `Runner.setup` raises."""
    runner = Runner()
    if not spaces.config.Config.zero_gpu:
        runner.setup(reference)  # no Path, which would take a slash out of a URL
        return runner
    # Each request there has a process of its own, a copy of this one, in which weights come to the GPU. So nothing is
    # compiled here, and no LoRA merged, as copies of the original weights would come to the GPU, too.
    os.environ.setdefault(ENGINE_VARIABLE, "plain")
    runner.setup()
    if reference:
        runner.read_trained_lora(reference)
    return runner


def card_of(reference: str) -> LoraCard:
    """The card of the LoRA that the deployment names."""
    if hub_repository(reference):
        return published_card(reference, token=os.environ.get(TOKEN, "").strip())
    return local_card(reference) if reference else LoraCard()


if __name__ == "__main__":
    main()
