"""A settings file of somebody else is read safely, with a sentence on what is wrong; also one of our own."""

import io
import itertools
import json
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from script import check as check_command
from script import train as train_command
from script.ai_toolkit import safe_yaml
from script.ai_toolkit.config_file import ConfigFile
from script.tiny_flux.monster import ARCHIVE
from tests.ai_toolkit_jobs import job, read, read_job, row_of, typed_job
from tests.tiny import assert_one_sentence, checked_config, write

KOHYA = "[general]\nenable_bucket = true\n[[datasets]]\nresolution = 512\n[[datasets.subsets]]\nimage_dir = 'a'\n"
MANY = "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in itertools.pairwise("abcdefghi")
)
OWN = {"lora_type": "subject", "base_model": "tiny", "images": 4, "processes": 1, "steps": 70, "resolutions": [64, 128]}


def read_text(folder: Path, text: str) -> ConfigFile:
    return read(write(folder / "my.yaml", text.encode()))


@pytest.mark.parametrize(
    ("typed", "number"),
    [("4e-4", 4e-4), ("4E-04", 4e-4), ("0.0004", 4e-4), (".4e-3", 4e-4), ("1e0", 1.0), ("1", 1)],
)
def test_numbers_are_those_of_yaml_1_2(tmp_path, typed: str, number: float):
    text = typed_job(tmp_path).replace("lr: 4e-4", f"lr: {typed}")
    assert read_text(tmp_path, text).inputs["learning_rate"] == number


def test_variables_of_the_environment_are_filled_in_and_stay_numbers(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_STEPS", "77")
    monkeypatch.setenv("MY_WORD", "TOK")
    text = typed_job(tmp_path).replace("steps: 2000", "steps: ${MY_STEPS}").replace('"p3r5on"', "${MY_WORD}")
    inputs = read_text(tmp_path, text).inputs
    assert (inputs["steps"], inputs["trigger_word"]) == (77, "TOK")


def test_a_job_in_json_is_read_too(tmp_path):
    file = write(tmp_path / "job.json", json.dumps(job(tmp_path), indent="\t").encode())
    assert read(file).inputs == read_job(job(tmp_path)).inputs


def test_aliases_stand_for_their_values(tmp_path):
    shared = {"folder_path": str(tmp_path), "resolution": 64}
    tree = job(tmp_path, datasets=[shared])
    dumped = yaml.safe_dump({**tree, "meta": shared})
    assert "*id001" in dumped
    assert read_text(tmp_path, dumped).inputs["resolution"] == "64"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"# only a comment", "is empty"),
        (b"- job", "is a list, no mapping of fields"),
        (b"model: flux\nlr: 1", "is a mapping without job (it has model, lr)"),
        (KOHYA.encode(), "is TOML, as kohya's sd-scripts and fluxgym write it"),
        (b'pretrained = "a"\nsteps = 3', "is TOML"),
        (b"job: [", "line 1, column 7 cannot be read"),
        (b"job:\n\t- x", "line 2, column 1 cannot be read"),
        (b"job: x\njob: y", "line 2 has 'job' twice"),
        (b"job: !!python/name:os.system x", "line 1 has a tag (!): remove it"),
        (b"a: &a [*a]", "line 1 is inside of itself by an alias (*)"),
        (f"a: &a [1]\n{MANY}".encode(), "stands for more than 4,000 values"),
        (f"a: &a {{b: 1}}\n{MANY.replace('[', '{<<: [').replace(']', ']}')}".encode(), "stands for more than"),
        (b"[" * 500, "is nested too deeply"),
        (b"{" * 500, "is nested too deeply"),
        (b'{"job": "extension", "config": {"name": "a", "b": ' + b"[" * 900 + b"]" * 900 + b"}}", "nested too deeply"),
        (b"- a\n" * 5_000, "stands for more than 4,000 values"),
        (b"a: " + b"1" * 5000, "has a number of thousands of digits, or a date that does not exist"),
        (b"a: 2024-13-45", "has a number of thousands of digits, or a date that does not exist"),
        (b"a: \x1b[2J", "cannot be read"),
        (b"a\0b", "is not a text file"),
        (b"\xff\xfea\x00", "is not a text file"),
        (b"a: \xe9", "is not UTF-8 at byte 3"),
        (b"a: " + b"x" * safe_yaml.LARGEST, "bytes: expected at most 262,144"),
        (b"job: ${NOBODY_HAS_SET_THIS}", "has ${NOBODY_HAS_SET_THIS}, and no variable NOBODY_HAS_SET_THIS is set"),
    ],
)
def test_a_file_that_is_no_settings_is_refused_in_one_sentence(tmp_path, content: bytes, sentence: str):
    with pytest.raises(ValueError, match=r"^--config ") as refused:
        read(write(tmp_path / "my.yaml", content))
    assert_one_sentence(refused.value, sentence)


def test_a_tar_or_zip_is_refused_with_what_to_do(tmp_path):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("config.yaml", "job: extension")
    with pytest.raises(ValueError, match=r"is not a text file: expected the job file of ai-toolkit .*`tar -xf"):
        read(write(tmp_path / "my.zip", content.getvalue()))


@pytest.mark.parametrize(("name", "found"), [("", "a folder"), ("nothing.yaml", "no file")])
def test_a_path_without_a_file_is_refused(tmp_path, name: str, found: str):
    with pytest.raises(ValueError, match=f", where {found} is: expected the job file"):
        read(tmp_path / name)


def test_no_error_quotes_what_came_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_SECRET", "hf_sesame: [")
    with pytest.raises(ValueError, match="cannot be read") as refused:
        read_text(tmp_path, "job: ${MY_SECRET}")
    assert "sesame" not in str(refused.value)


def test_the_settings_of_a_training_here_are_its_inputs_again(monkeypatch):
    monkeypatch.delenv("FLUX_BASE", raising=False)
    config = read_job({**OWN, "learning_rate": 0.001, "sample_prompts": [], "time_limit": None, "views": 4, "plan": {}})
    assert config.inputs == {
        "lora_type": "subject",
        "steps": 70,
        "resolution": "64,128",
        "learning_rate": 0.001,
        "sample_prompts": "none",
    }
    assert config.base == "tiny"
    assert row_of(config, "views").endswith("of lora_type subject")


def test_the_weight_of_preservation_is_compared_only_if_there_is_preservation(monkeypatch):
    """An older version gave a `general` none, and the weight 1."""
    monkeypatch.delenv("FLUX_BASE", raising=False)
    config = read_job({**OWN, "lora_type": "general", "preservation": 0.0, "preservation_weight": 1.0})
    assert config.inputs["preservation"] == 0
    assert row_of(config, "preservation_weight").endswith("no effect without preservation")
    with pytest.raises(ValueError, match=r"preservation_weight is 1\.0: expected 2\.0, which lora_type general has"):
        read_job({**OWN, "lora_type": "general", "preservation": 0.25, "preservation_weight": 1.0})


@pytest.mark.parametrize(
    ("field", "sentence"),
    [
        ({"weight_decay": 0.5}, "weight_decay is 0.5: expected 0.0001, which lora_type subject has"),
        ({"steps": 9999}, "steps is 9999: expected 0 to 6000"),
        ({"something_else": 1}, "something_else is not a setting of this version"),
        (
            {"base_model": "folder mine"},
            "base_model is 'folder mine': expected dev, krea, klein, klein-9b, tiny or tiny-flux2; or set",
        ),
    ],
)
def test_settings_that_this_version_would_train_otherwise_are_refused(monkeypatch, field, sentence):
    monkeypatch.delenv("FLUX_BASE", raising=False)
    with pytest.raises(ValueError, match=r"^--config ") as refused:
        read_job({**OWN, **field})
    assert_one_sentence(refused.value, sentence)


def test_train_refuses_a_faulty_file_before_anything_is_read(monkeypatch, tmp_path, capsys):
    file = write(tmp_path / "my.yaml", typed_job(tmp_path).replace("linear_alpha: 16", "linear_alpha: 8").encode())
    monkeypatch.setenv("FLUX_BASE", "tiny")
    monkeypatch.setattr(sys, "argv", ["script/train", str(ARCHIVE), "--config", str(file)])
    with pytest.raises(SystemExit) as ended:
        train_command.main()
    assert_one_sentence(ended.value.code, f"error: --config {file}: config.process[0].network.linear_alpha is 8")
    assert (capsys.readouterr().out, list(tmp_path.iterdir())) == ("", [file])


def test_check_takes_the_file_with_its_folder_and_keeps_its_own_output(monkeypatch, tmp_path, capsys):
    photos = tmp_path / "photos"
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(photos, archive.namelist()[:4])
    file, sheet = write(tmp_path / "my.yaml", typed_job(photos).encode()), tmp_path / "check.png"
    monkeypatch.setenv("FLUX_BASE", "tiny")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["script/check", "--config", str(file), "--resolution", "64"])
    check_command.main()
    printed = capsys.readouterr().out
    assert "--resolution 64, which is given, wins" in printed
    assert "wrote check.png: all images" in printed
    assert sheet.is_file()
    assert not (photos / "my_lora").exists(), "the output of the file is that of a training"


def test_the_defaults_of_the_signature_stay_for_what_the_file_does_not_say(tmp_path):
    config = checked_config(**read_job(job(tmp_path)).inputs)
    assert (config.preservation, config.seed, config.extra_layout) == (None, 42, "none")
