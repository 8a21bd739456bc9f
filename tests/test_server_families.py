"""What holds for a base of each family: predictions through one real Cog server that has both."""

import time
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import save

from lora.images.metadata import settings_in
from script.cog_server import Server
from tests.cog_client import call, data_uri, images_of, post_prediction, when_free
from tests.families import FIRST, KLEIN
from tests.loopback import webhook
from tests.servers import end_of
from tests.test_server_predict import SMALL_REQUEST, differ_little
from tests.tiny import encoded, random_lora

pytestmark = pytest.mark.xdist_group("servers")

SECONDS_TO_CANCEL = 5
# The inputs that choose a base of each family.
MODELS = {FIRST.family.name: {}, KLEIN.family.name: {"model": "klein"}}
of_each_family = pytest.mark.parametrize("family", MODELS)


@pytest.fixture(scope="module")
def loras(trained_tar: bytes) -> dict[str, str]:
    """A LoRA for each family, as a data URI."""
    folder = KLEIN.folder / "transformer"
    of_klein = random_lora(KLEIN.family.components.transformer.from_pretrained(folder), spread=0.1)
    uris = (data_uri(trained_tar, media_type="application/x-tar"), data_uri(save(of_klein)))
    return dict(zip(MODELS, uris, strict=True))


@of_each_family
def test_a_lora_changes_the_image_at_scale_1_and_not_at_scale_0_or_without_it(
    predict_server: Server, loras: dict[str, str], family: str
) -> None:
    uri, request = loras[family], SMALL_REQUEST | MODELS[family]
    bare = images_of(predict_server, **request)
    applied = images_of(predict_server, lora_weights=uri, **request)
    at_zero = images_of(predict_server, lora_weights=uri, lora_scale=0, **request)
    assert applied != bare
    assert at_zero == bare
    assert images_of(predict_server, lora_weights=uri, **request) == applied
    assert images_of(predict_server, **request) == bare


@of_each_family
def test_images_of_one_call_equal_those_of_single_calls_with_the_next_seeds(
    predict_server: Server, family: str
) -> None:
    request = SMALL_REQUEST | MODELS[family]
    together = images_of(predict_server, **{**request, "num_outputs": 2})
    apart = [images_of(predict_server, **{**request, "seed": seed})[0] for seed in (7, 8)]
    assert together == apart
    assert together[0] != together[1]


@of_each_family
def test_a_file_that_is_no_lora_of_the_bases_family_is_refused_and_the_next_image_is_that_of_before(
    predict_server: Server, loras: dict[str, str], family: str
) -> None:
    (other,) = MODELS.keys() - {family}
    request = SMALL_REQUEST | MODELS[family]
    before = images_of(predict_server, **request)
    for uri, found in ((data_uri(b"not a LoRA"), ""), (loras[other], f"it was made for {other.split()[0]}")):
        response = post_prediction(predict_server, lora_weights=uri, **request)
        assert response.body["status"] == "failed"
        assert "lora_weights" in response.body["error"]
        assert found in response.body["error"]
        assert "\n" not in response.body["error"]
    assert images_of(predict_server, **request) == before


@of_each_family
def test_an_image_and_a_mask_are_used(predict_server: Server, family: str) -> None:
    request = SMALL_REQUEST | MODELS[family]
    (first,) = images_of(predict_server, **request)
    source, black = (data_uri(image, media_type="image/png") for image in (first, encoded(Image.new("L", (64, 64)))))
    (kept,) = images_of(predict_server, image=source, prompt_strength=0.0, **request)
    assert differ_little(kept, first)
    (changed,) = images_of(predict_server, image=source, prompt_strength=0.9, **request | {"seed": 8})
    assert not differ_little(changed, first)
    (masked,) = images_of(predict_server, image=source, mask=black, prompt_strength=0.9, **request)
    assert differ_little(masked, first)
    response = post_prediction(predict_server, mask=source, **request)
    assert "mask is given without image" in response.body["error"]


def test_klein_is_led_away_from_a_negative_prompt_with_its_own_guidance(predict_server: Server, tmp_path: Path) -> None:
    request = SMALL_REQUEST | MODELS[KLEIN.family.name]
    (plain,), (led_away,) = (
        images_of(predict_server, **request, **more) for more in ({}, {"negative_prompt": "a star"})
    )
    assert not differ_little(plain, led_away)
    (tmp_path / "out.png").write_bytes(led_away)
    settings = settings_in(tmp_path / "out.png")
    assert (settings["negative_prompt"], settings["guidance_scale"], settings["model"]) == ("a star", 4, "klein")


@of_each_family
def test_a_cancelled_request_ends_at_once_and_does_not_change_the_next_image(
    predict_server: Server, family: str
) -> None:
    """D29: a step at this size takes at least a tenth of a second, and the whole request would take half a minute."""
    request = SMALL_REQUEST | MODELS[family]
    long = {
        **request,
        "num_inference_steps": 50,
        "num_outputs": 4,
        "aspect_ratio": "custom",
        "width": 512,
        "height": 512,
    }
    before = images_of(predict_server, **request)
    name = f"endless-{len(MODELS[family])}"
    with webhook() as receiver:
        body = {"input": long, "webhook": receiver.url}
        when_free("PUT", f"{predict_server.url}/predictions/{name}", body, prefer="respond-async")
        while "%|" not in (receiver.events.get(timeout=60).get("logs") or ""):
            pass
        began = time.monotonic()
        call("POST", f"{predict_server.url}/predictions/{name}/cancel", {})
        assert end_of(receiver, seconds=60)["status"] == "canceled"
        print(f"\ncancelled in {time.monotonic() - began:.2f} s")
        assert time.monotonic() - began < SECONDS_TO_CANCEL
    assert images_of(predict_server, **request) == before
