"""LoRAs on Civitai, found through a server on this machine with the responses of Civitai's API; C8 and C10."""

import pytest

from tests.services import a_network, send, send_json, service
from weights.grammar.records import CivitaiLora
from weights.sources.civitai import find_on_civitai

MODEL, VERSION, OLDER = 618692, 691639, 600000
NEWEST = CivitaiLora(None, VERSION)


def a_file(name="x.safetensors", **changes):
    return {
        "name": name,
        "type": "Model",
        "sizeKB": 20.5,
        "primary": True,
        "metadata": {"format": "SafeTensor"},
        "hashes": {"SHA256": "AB" * 32},
        "downloadUrl": f"https://civitai.com/api/download/models/{VERSION}?type=Model&format=SafeTensor",
    } | changes


def a_version(number=VERSION, base="Flux.1 D", files=None):
    files = [a_file()] if files is None else files
    return {"id": number, "baseModel": base, "files": files, "model": {"type": "LORA"}}


def find_file(lora, response, *, token=""):
    with service(lambda request, _: send_json(request, response)) as server:
        remote_file = find_on_civitai(lora, token, a_network(server, civitai=server.url))
        return remote_file.request.url.removeprefix(server.url), remote_file, server


def refusal(response, lora=NEWEST):
    with pytest.raises(ValueError) as error:
        find_file(lora, response)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_version_is_requested_by_its_number():
    """C8."""
    path, remote_file, server = find_file(CivitaiLora(MODEL, VERSION), a_version())
    assert server.paths() == [f"/api/v1/model-versions/{VERSION}"]
    assert path == f"/api/download/models/{VERSION}?type=Model&format=SafeTensor"
    assert remote_file.sha256 == "ab" * 32


def test_the_newest_version_for_flux_of_a_model_is_chosen():
    """C8: the peers use the number of a model as that of a version."""
    newer = a_version(700000, "SDXL 1.0")
    path, _, server = find_file(
        CivitaiLora(MODEL), {"type": "LORA", "modelVersions": [newer, a_version(), a_version(OLDER)]}
    )
    assert server.paths() == [f"/api/v1/models/{MODEL}"]
    assert str(VERSION) in path
    assert str(MODEL) not in path


def test_a_download_url_on_another_host_is_not_used():
    path, _, _ = find_file(CivitaiLora(None, VERSION), a_version(files=[a_file(downloadUrl="https://evil.example/x")]))
    assert path == f"/api/download/models/{VERSION}"


@pytest.mark.parametrize("base", ["SDXL 1.0", "Flux.3 D", "SD 3.5", "", None])
def test_a_lora_for_another_base_model_is_refused_before_it_is_downloaded(base):
    """C10."""
    message = refusal(a_version(base=base))
    assert f"made for {base or 'an unknown model'}" in message
    assert "FLUX.1" in message


KLEIN, DEV = a_version(700000, "Flux.2 Klein 4B-base"), a_version()


@pytest.mark.parametrize(("base_model", "number"), [("FLUX.1", VERSION), ("FLUX.2 [klein]", 700000), ("", 700000)])
def test_the_newest_version_is_that_for_the_family_of_the_base(base_model, number):
    lora = CivitaiLora(MODEL, base_model=base_model)
    versions = [a_version(800000, "SDXL 1.0"), KLEIN | {"files": [a_file(downloadUrl="")]}, DEV]
    assert str(number) in find_file(lora, {"type": "LORA", "modelVersions": versions})[0]


@pytest.mark.parametrize(
    ("version", "base_model"),
    [(KLEIN, "FLUX.1"), (DEV, "FLUX.2 [klein]"), (a_version(base="Flux.2 D"), "FLUX.2 [klein]")],
)
def test_a_version_for_another_family_than_that_of_the_base_is_refused_by_name(version, base_model):
    message = refusal(version, CivitaiLora(None, VERSION, base_model=base_model))
    assert message == f"was made for {version['baseModel']}: expected a LoRA for {base_model}"


SIZES = [a_version(900000 + size, f"Flux.2 Klein {size}B{end}") for size in (9, 4) for end in ("", "-base")]


@pytest.mark.parametrize(
    ("base_model", "number"),
    [("FLUX.2 [klein] 4B", 900004), ("FLUX.2 [klein] 9B", 900009), ("FLUX.2 [klein]", 900009), ("", 900009)],
)
def test_of_a_model_that_offers_both_sizes_the_newest_for_that_of_the_base_is_chosen(base_model, number):
    versions = [DEV, *(version | {"files": [a_file(downloadUrl="")]} for version in SIZES)]
    response = {"type": "LORA", "modelVersions": versions if base_model else versions[1:]}
    assert str(number) in find_file(CivitaiLora(MODEL, base_model=base_model), response)[0]


@pytest.mark.parametrize("version", SIZES)
def test_a_version_for_another_size_than_that_of_the_base_is_refused_by_name(version):
    for size in ("4B", "9B"):
        lora = CivitaiLora(None, VERSION, base_model=f"FLUX.2 [klein] {size}")
        if size in version["baseModel"]:
            find_file(lora, version)
        else:
            expected = f"was made for {version['baseModel']}: expected a LoRA for FLUX.2 [klein] {size}"
            assert refusal(version, lora) == expected


def test_a_version_whose_base_model_has_no_size_may_be_for_any():
    version = a_version(base="Flux.2 Klein")
    assert find_file(CivitaiLora(None, VERSION, base_model="FLUX.2 [klein] 9B"), version)


def test_the_error_for_a_model_without_a_version_for_flux_names_its_base_model():
    response = {"type": "LORA", "modelVersions": [a_version(base="Pony")]}
    assert "made for Pony" in refusal(response, CivitaiLora(MODEL))


def test_a_model_without_versions_is_refused():
    assert "no downloadable version" in refusal({"type": "LORA", "modelVersions": []}, CivitaiLora(MODEL))


def test_a_checkpoint_is_refused():
    assert "is a Checkpoint" in refusal({"type": "Checkpoint", "modelVersions": [a_version()]}, CivitaiLora(MODEL))
    assert "is a Checkpoint" in refusal(a_version() | {"model": {"type": "Checkpoint"}})


def test_the_primary_safetensors_file_is_chosen():
    """C8."""
    pickled = a_file("x.pt", metadata={"format": "PickleTensor"}, downloadUrl="")
    training = a_file("data.zip", type="Training Data", downloadUrl="")
    second = a_file("y.safetensors", primary=False, downloadUrl="")
    path, _, _ = find_file(CivitaiLora(None, VERSION), a_version(files=[pickled, training, second, a_file()]))
    assert path.endswith("?type=Model&format=SafeTensor")


def test_the_error_for_several_files_without_a_primary_one_lists_them():
    files = [a_file("x.safetensors", primary=False), a_file("y.safetensors", primary=False)]
    assert "2 .safetensors files on Civitai (of 'x.safetensors', 'y.safetensors')" in refusal(a_version(files=files))


def test_a_version_with_only_pickles_is_refused():
    message = refusal(a_version(files=[a_file("x.pt", metadata={"format": "PickleTensor"})]))
    assert "0 .safetensors files on Civitai (of 'x.pt'); pickles, such as 'x.pt', are not read" in message


@pytest.mark.parametrize("token", ["", "s3cret"])
def test_an_error_about_access_names_the_input(token):
    with (
        service(lambda request, _: send(request, status=401)) as server,
        pytest.raises(ValueError, match="civitai_api_token"),
    ):
        find_on_civitai(CivitaiLora(None, VERSION), token, a_network(server, civitai=server.url))


def test_a_file_over_the_limit_is_refused_before_it_is_downloaded():
    assert "expected at most" in refusal(a_version(files=[a_file(sizeKB=2**30)]))


def test_the_token_is_sent_in_a_header_only():
    _, remote_file, server = find_file(CivitaiLora(None, VERSION), a_version(), token="s3cret")
    assert server.requests[0].headers["authorization"] == "Bearer s3cret"
    assert remote_file.request.token == "s3cret"
    assert "s3cret" not in server.paths()[0] + remote_file.request.url


def test_a_missing_model_is_reported():
    with (
        service(lambda request, _: send(request, status=404)) as server,
        pytest.raises(ValueError, match="was not found"),
    ):
        find_on_civitai(CivitaiLora(MODEL), "", a_network(server, civitai=server.url))


@pytest.mark.parametrize("files", [None, 7, [7], [{}], [{"metadata": 7}]])
def test_a_response_with_an_unexpected_structure_is_refused(files):
    assert "0 .safetensors files" in refusal(a_version() | {"files": files})


@pytest.mark.parametrize("content", [b"<html>", b"[1]", b"[" * 100_000, b"\xff"])
def test_a_response_that_is_not_a_json_object_is_reported(content):
    with (
        service(lambda request, _: send(request, content)) as server,
        pytest.raises(ValueError, match="cannot be looked up"),
    ):
        find_on_civitai(CivitaiLora(MODEL), "", a_network(server, civitai=server.url))
