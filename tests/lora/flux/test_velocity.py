"""The inputs of the transformer that only FLUX.1 has. tests/lora/families has those of all families."""

import torch

from lora.base.prompt import Prompt
from lora.flux.prompt import encode_prompt
from lora.flux.velocity import predict_velocity
from tests.tiny import recorded_calls, tiny_pipeline


def test_positions_of_text_have_no_batch_dimension_but_guidance_has():
    """Trap 14."""
    pipeline = tiny_pipeline()
    prompt = Prompt.stack([encode_prompt(pipeline, "a photo of TOK, on a table"), encode_prompt(pipeline, "")])
    with recorded_calls(pipeline.transformer) as calls, torch.no_grad():
        noisy = torch.randn(2, 16, 6, 10)
        predict_velocity(pipeline.transformer, noisy, sigmas=torch.tensor([0.2, 0.9]), prompt=prompt, guidance=1.0)
    assert calls[0]["txt_ids"].shape == (prompt.tokens.shape[1], 3)
    assert calls[0]["guidance"].shape == (2,)
