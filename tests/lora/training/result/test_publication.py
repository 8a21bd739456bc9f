"""What of a tar is published: everything to use the LoRA, and nothing of the training images and their captions."""

import json
import tarfile

import pytest
from huggingface_hub import ModelCard
from safetensors import safe_open

from lora.images.metadata import exif
from lora.training.learning.adapter import lora_tensors
from lora.training.learning.history import StepNumbers
from lora.training.learning.summary import TrainingResult, TrainingSummary, Usage
from lora.training.learning.validation import ValidationResult
from lora.training.result.output import FOLDER
from lora.training.result.publication import read_publication, write_publication
from tests.servers import Tar
from tests.tiny import (
    encoded,
    load_tensors,
    noisy_image,
    randomize_lora,
    read_archive,
    tiny_lora_transformer,
    write,
    written,
    zipped,
)

CAPTIONS = {"secret-name.png": "TOK: a 'quoted' # word", "other.png": "TOK"}  # the second has the trigger word alone
PUBLIC = ("TOK", "TOK in the desert")


@pytest.fixture(scope="module")
def tar(tmp_path_factory):
    """The tar of a training with samples of a caption, of the trigger word alone and of another prompt."""
    folder = tmp_path_factory.mktemp("made")
    members = {name: encoded(noisy_image(seed=index)) for index, name in enumerate(CAPTIONS)}
    members["captions.json"] = json.dumps(CAPTIONS)
    dataset = read_archive(write(folder / "images.zip", zipped(members)), into=folder / "into").dataset
    samples = folder / "samples"
    samples.mkdir()
    for number, prompt in enumerate((CAPTIONS["secret-name.png"], *PUBLIC), 1):
        for step in (0, 3):
            described = exif({"prompt": prompt, "seed": 41 + number, "training_step": step})
            content = encoded(noisy_image(64, 64, seed=number), "JPEG", exif=described)
            write(samples / f"step-{step:06}-{number}-seed-{41 + number}-x.jpg", content)
    transformer = tiny_lora_transformer()
    randomize_lora(transformer)
    steps = tuple(StepNumbers(step, 0.5, 0.5, 4e-4, 1.0, 0.5, None) for step in (1, 2, 3))
    results = tuple(ValidationResult(step, (loss,)) for step, loss in ((0, 0.5), (3, 0.25)))
    summary = TrainingSummary(3, "the last", 3, 3, 0, 0, None, results, steps)
    result = TrainingResult(lora_tensors(transformer), summary, Usage(3, 0.2, 0.0, None))
    page = "a page with <img> of secret-name.png"
    return written(transformer, dataset, folder, samples=samples, result=result, page=page, base_model="dev")


def published(tar, into, *, with_captions=False):
    """The files that are uploaded, by name."""
    write_publication(read_publication(tar), into=into, repository="me/lora", with_captions=with_captions)
    return {path.relative_to(into).as_posix(): path.read_bytes() for path in into.rglob("*") if path.is_file()}


def test_the_lora_its_card_licence_samples_and_report_are_published(tar, tmp_path):
    files = published(tar, tmp_path)
    samples = {f"samples/step-{step:06}-{number}-seed-{41 + number}-x.jpg" for number in (2, 3) for step in (0, 3)}
    reports = {f"report/{name}" for name in ("index.html", "losses.jsonl", "training.json")}
    assert files.keys() == {"lora.safetensors", "README.md", "NOTICE", *reports, *samples}
    tensors, kept = load_tensors(files["lora.safetensors"]), Tar(tar.read_bytes()).tensors
    assert tensors.keys() == kept.keys()
    assert all(tensors[name].equal(kept[name]) for name in kept)


def test_no_caption_and_no_name_of_a_training_image_is_published(tar, tmp_path):
    """Not in the names of samples, in their metadata, in those of the LoRA, or in the page either."""
    for name, content in published(tar, tmp_path).items():
        assert b"quoted" not in content, name
        assert b"secret-name" not in content, name


def test_captions_are_published_where_that_is_asked_for(tar, tmp_path):
    files = published(tar, tmp_path, with_captions=True)
    assert files["captions/secret-name.txt"] == CAPTIONS["secret-name.png"].encode()
    assert b"secret-name" in files["report/index.html"]
    assert len(ModelCard(files["README.md"].decode()).data.widget) == 3
    assert "report/run.json" not in files, "that is about the machine"


def test_the_published_lora_keeps_its_other_metadata(tar, tmp_path):
    published(tar, tmp_path)
    with safe_open(tmp_path / "lora.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["modelspec.trigger_phrase"] == "TOK"
    assert json.loads(metadata["ss_tag_frequency"]) == {"img": {"TOK": 2}}
    assert json.loads(metadata["trainer_config"])["steps"] == 3


def test_the_report_page_has_samples_and_curves_but_no_images_of_the_data_set(tar, tmp_path):
    page = published(tar, tmp_path)["report/index.html"].decode()
    assert page.count("data:image/jpeg") == 4
    assert "0.2500 at step 3" in page
    assert "Images, as trained" not in page


def test_the_card_in_the_tar_is_the_published_one_but_for_where_the_lora_is(tar, tmp_path):
    inside = Tar(tar.read_bytes()).file(f"{FOLDER}/README.md").decode()
    outside = published(tar, tmp_path)["README.md"].decode()
    ours, theirs = ModelCard(inside).data.to_dict(), ModelCard(outside).data.to_dict()
    assert ours == theirs
    assert [each["text"] for each in ours["widget"]] == list(PUBLIC)
    assert 'load_lora_weights("me/lora"' in outside
    assert "me/lora" not in inside


def test_every_image_of_the_card_is_published(tar, tmp_path):
    files = published(tar, tmp_path)
    shown = [line for line in files["README.md"].decode().splitlines() if line.startswith("![")]
    paths = [part.partition(">")[0] for line in shown for part in line.split("(<")[1:]]
    assert len(paths) == 4
    assert files.keys() >= {*paths}


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ({}, f"has no {FOLDER}/lora.safetensors"),
        ({"lora.safetensors": b""}, f"has no {FOLDER}/config.yaml"),
        ({"lora.safetensors": b"", "config.yaml": b"job: extension"}, "has a config.yaml without base_model"),
        ({"lora.safetensors": b"", "config.yaml": b"a: ["}, "has a damaged config.yaml"),
        ({"lora.safetensors": b"x", "config.yaml": b"base_model: dev"}, "without the metadata of a training"),
    ],
)
def test_a_tar_of_something_else_is_refused(tmp_path, files, fault):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as made:
        for name, content in files.items():
            write(tmp_path / name, content)
            made.add(tmp_path / name, arcname=f"{FOLDER}/{name}")
    with pytest.raises(ValueError, match=f"{fault}.*: expected the tar of a training"):
        published(path, tmp_path / "into")


def test_a_file_that_is_no_tar_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^is no tar \([^\n]+\): expected the tar of a training[^\n]*$"):
        read_publication(write(tmp_path / "a.tar", b"no tar"))
