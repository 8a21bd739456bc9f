"""A job file of ai-toolkit becomes the inputs that train the same; what would train otherwise is refused by name."""

import pytest
import regex

from lora.flux.family import FLUX1
from lora.training.recipe.config import MAX_STEPS
from lora.training.recipe.layers import LONGEST_PATTERN, select_layers
from script.ai_toolkit.layers import layers_regex
from tests.ai_toolkit_jobs import job, page_job, public_trainer_job, read, read_job, row_of, typed_job
from tests.tiny import assert_one_sentence, checked_config, write

DOUBLE = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "attn.add_q_proj", "ff.net.0.proj", "ff.net.2")
SINGLE = ("norm.linear", "proj_mlp", "proj_out", "attn.to_q", "attn.to_k", "attn.to_v")
LAYERS = [f"transformer_blocks.{block}.{layer}" for block in range(19) for layer in DOUBLE]
LAYERS += [f"single_transformer_blocks.{block}.{layer}" for block in range(38) for layer in SINGLE]
PROCESS = "config.process[0]"


@pytest.fixture(autouse=True)
def _no_base(monkeypatch):
    monkeypatch.delenv("FLUX_BASE", raising=False)


def test_every_field_of_the_example_becomes_an_input_of_a_training(tmp_path):
    config = read(write(tmp_path / "my_lora.yaml", typed_job(tmp_path).encode()))
    assert config.inputs == {
        "input_images": str(tmp_path),
        "trigger_word": "p3r5on",
        "caption_dropout_rate": 0.05,
        "cache_latents_to_disk": True,
        "resolution": "64,128",
        "unmasked_weight": 1.0,
        "lora_type": "replicate",
        "lora_rank": 16,
        "steps": 2000,
        "batch_size": 1,
        "gradient_accumulation": 1,
        "learning_rate": 0.0004,
        "optimizer": "adamw8bit",
        "lr_scheduler": "constant",
        "ema_decay": 0.99,
        "timestep_logit_mean": 0.0,
        "validation": False,
        "precision": "int8",
        "checkpoint_every": 200,
        "sample_prompts": "p3r5on on a beach\na horse",
        "sample_every": 100,
        "sample_steps": 12,
        "sample_guidance": 4,
    }
    assert (config.base, config.output) == ("dev", f"{tmp_path}/my_lora/my_lora.tar")
    checked_config(**config.inputs)


def test_the_table_has_each_field_with_its_value_and_what_it_became(tmp_path):
    config = read_job(job(tmp_path))
    for field, found, meaning in (
        ("train.steps", "2000", "steps 2000"),
        ("train.lr_scheduler", "-", "lr_scheduler constant: ai-toolkit's default"),
        ("train.dtype", "bf16", "no effect here: the plan chooses"),
        ("save.dtype", "float16", "no effect here: the LoRA is saved in bf16"),
        ("model.quantize", "true", "precision int8"),
        ("datasets[0].folder_path", str(tmp_path)[:41], "the images"),
        ("sample.width", "1024", "no effect here: samples are squares of the largest resolution"),
    ):
        row = row_of(config, f"{PROCESS}.{field}")
        assert row.startswith(found), row
        assert meaning in row


def test_the_config_of_the_public_trainer_is_taken_with_an_archive_on_the_command_line():
    layers = [f"transformer.single_transformer_blocks.{block}.proj_out" for block in (7, 12, 16, 20)]
    config = read_job(public_trainer_job(layers), input_images="photos.zip")
    checked = checked_config(**config.inputs)
    assert config.inputs["layers_to_optimize_regex"].endswith(r"blocks\.(7|12|16|20)\.proj_out")
    assert (checked.steps, checked.resolutions, checked.precision) == (2000, (512, 768, 1024), "auto")
    assert (checked.sample_prompts, checked.checkpoint_every, config.base) == ((), 1001, "dev")
    assert "photos.zip, which is given, wins" in row_of(config, f"{PROCESS}.datasets[0].folder_path")


@pytest.mark.parametrize(("size", "base"), [("4b", "klein"), ("9b", "klein-9b")])
def test_the_job_that_ai_toolkits_page_writes_for_klein_is_taken_and_its_table_has_what_differs(tmp_path, size, base):
    config = read_job(page_job(tmp_path, size))
    checked = checked_config(**config.inputs)
    assert (config.base, checked.steps, checked.lora_rank, checked.precision) == (base, 3000, 32, "int8")
    assert (checked.timestep_logit_mean, checked.ema_decay, checked.caption_dropout_rate) == (0.47, 0, 0.05)
    for field, meaning in (
        ("train.timestep_type", "timestep_logit_mean 0.47: the nearest logit-normal"),
        ("train.optimizer_params.weight_decay", "0.01 here, which changes the LoRA by 0.3% in all"),
        ("train.bypass_guidance_embedding", "no effect here: FLUX.2 [klein] has no guidance embedding"),
        ("model.model_kwargs.match_target_res", "no effect here: it is the size of control images"),
        ("model.qtype", "no effect here: the plan chooses"),
    ):
        assert meaning in row_of(config, f"{PROCESS}.{field}")


@pytest.mark.parametrize(
    ("optimizer", "steps", "is_taken"),
    [("adamw8bit", 2000, True), ("adamw8bit", 2600, False), ("adam8bit", 2000, False), ("adamw", 0, False)],
)
def test_another_weight_decay_is_taken_as_long_as_it_changes_the_weights_by_a_hundredth_at_most(
    tmp_path, optimizer: str, steps: int, is_taken: bool
):
    """The share is the rate times the steps times the difference, here 4e-4 times the steps times 0.0099."""
    changes = {"train__optimizer": optimizer, "train__steps": steps}
    tree = job(tmp_path, train__optimizer_params={"weight_decay": 1e-4}, **changes)
    if is_taken:
        assert "by 0.8% in all" in row_of(read_job(tree), f"{PROCESS}.train.optimizer_params.weight_decay")
    else:
        with pytest.raises(ValueError, match=r"weight_decay is 0\.0001: expected 0\.01"):  # steps 0 is refused, too
            read_job(tree)


@pytest.mark.parametrize(
    ("only", "ignored"),
    [
        (["transformer.single_transformer_blocks.7.proj_out"], []),
        ([f"transformer.{name}" for name in LAYERS], []),
        ([f"transformer.{name}" for name in LAYERS if "attn" in name], []),
        ([f"transformer.{name}" for name in LAYERS if ".1" in name], ["proj_mlp"]),
        (["transformer.single_transformer_blocks.1", "attn.to_q", "ff.net.0.proj"], ["transformer_blocks.2."]),
        (["transformer$$transformer_blocks$$3$$"], []),
        ([], ["attn", "norm"]),
    ],
)
def test_the_layers_are_those_that_contain_one_of_the_names(only: list[str], ignored: list[str]):
    """As in ai-toolkit, where a name is that of a layer with `transformer.` in front, with dots or `$$`."""
    dotted = [each.replace("$$", ".") for each in only] or [""]
    expected = [
        name
        for name in LAYERS
        if any(part in f"transformer.{name}" for part in dotted)
        and not any(part in f"transformer.{name}" for part in ignored)
    ]
    pattern = layers_regex(only, ignored)
    selected = select_layers(dict.fromkeys(LAYERS, (1, 1)), FLUX1, layers="all", layers_to_optimize_regex=pattern)
    assert list(selected.names) == expected
    assert len(pattern) <= LONGEST_PATTERN
    assert regex.compile(pattern)


@pytest.mark.parametrize(
    ("changes", "field", "sentence"),
    [
        ({"network__linear_alpha": 32}, "network.linear_alpha", "is 32: expected 16"),
        ({"network__type": "lokr"}, "network.type", "is 'lokr': expected lora"),
        ({"network__dropout": 0.1}, "network.dropout", "is 0.1: expected 0"),
        ({"network__linear": 0, "network__linear_alpha": None}, "network.linear", "is 0: expected more than 0"),
        ({"network": None}, "network", "is missing: expected type lora"),
        ({"datasets": [{"folder_path": "."}] * 2}, "datasets", "has 2 entries: expected one"),
        ({"datasets": None}, "datasets", "is missing: expected a list of one data set"),
        ({"dataset__folder_path": "/no/such"}, "datasets[0].folder_path", "is '/no/such', where nothing is"),
        ({"dataset__is_reg": True}, "datasets[0].is_reg", "is true: expected false"),
        ({"dataset__mask_path": "masks"}, "datasets[0].mask_path", "is 'masks': expected none"),
        ({"dataset__control_path": "poses"}, "datasets[0].control_path", "is 'poses': expected none"),
        ({"dataset__flip_x": True}, "datasets[0].flip_x", "is true: expected false"),
        ({"dataset__num_repeats": 10}, "datasets[0].num_repeats", "is 10: expected 1"),
        ({"dataset__shuffle_tokens": True}, "datasets[0].shuffle_tokens", "is true: expected false"),
        ({"dataset__caption_ext": "json"}, "datasets[0].caption_ext", "is 'json': expected 'txt'"),
        ({"dataset__default_caption": "a man"}, "datasets[0].default_caption", "is 'a man': expected none"),
        ({"dataset__resolution": [512, 512, 768]}, "datasets[0].resolution", "as often as the others"),
        ({"dataset__resolution": ["big"]}, "datasets[0].resolution", "is 'big': expected sizes in pixels"),
        ({"train__train_text_encoder": True}, "train.train_text_encoder", "is true: expected false"),
        ({"train__train_unet": False}, "train.train_unet", "is false: expected true"),
        ({"train__timestep_type": "shift"}, "train.timestep_type", "is 'shift': expected sigmoid or weighted"),
        ({"train__timestep_type": ["sigmoid"]}, "train.timestep_type", "is ['sigmoid']: expected sigmoid"),
        ({"model__model_kwargs": {"x": 1}}, "model.model_kwargs.x", "expected one of match_target_res; or remove"),
        ({"train__content_or_style": "style"}, "train.content_or_style", "is 'style': expected 'balanced'"),
        ({"train__linear_timesteps": True}, "train.linear_timesteps", "is true: expected false"),
        ({"train__loss_type": "mae"}, "train.loss_type", "is 'mae': expected 'mse'"),
        ({"train__diff_output_preservation": True}, "train.diff_output_preservation", "--preservation 0.25"),
        ({"train__bypass_guidance_embedding": True}, "train.bypass_guidance_embedding", "is true: expected false"),
        ({"train__noise_scheduler": "ddpm"}, "train.noise_scheduler", "is 'ddpm': expected 'flowmatch'"),
        ({"train__unload_text_encoder": True}, "train.unload_text_encoder", "drops all captions"),
        ({"train__lr_scheduler": "linear"}, "train.lr_scheduler", "is 'linear': expected constant or cosine"),
        ({"train__optimizer": "automagic"}, "train.optimizer", "is 'automagic': expected one of adamw8bit"),
        ({"train__optimizer_params": {"weight_decay": 0.1}}, "train.optimizer_params.weight_decay", "expected 0.01"),
        ({"train__lr": 0}, "train.lr", "is 0: expected more than 0"),
        ({"train__lr": "fast"}, "train.lr", "is 'fast': expected a number"),
        ({"train__unet_lr": 0.1}, "train.unet_lr", "is 0.1: expected 0.0004"),
        ({"train__steps": MAX_STEPS + 1}, "train.steps", f"is {MAX_STEPS + 1}: expected 0 to {MAX_STEPS}"),
        ({"train__ema_config": {"use_ema": True, "use_feedback": True}}, "train.ema_config.use_feedback", "is true"),
        ({"train": ["steps"]}, "train", "is ['steps']: expected a mapping"),
        ({"model__name_or_path": "Qwen/Qwen-Image"}, "model.name_or_path", "is 'Qwen/Qwen-Image': expected"),
        ({"model__name_or_path": "black-forest-labs/FLUX.1-schnell"}, "model.name_or_path", "other models are not"),
        ({"model__name_or_path": None}, "model.name_or_path", "is missing: expected black-forest-labs/FLUX.1-dev"),
        ({"model__arch": "flux_kontext"}, "model.arch", "is 'flux_kontext': expected flux"),
        ({"model__arch": "flux2_klein_4b"}, "model.name_or_path", "expected black-forest-labs/FLUX.2-klein-base-4B"),
        (
            {"model__name_or_path": "black-forest-labs/FLUX.2-klein-base-4B"},
            "model.name_or_path",
            "with the arch flux",
        ),
        ({"model__is_flux": None}, "model.is_flux", "is missing: expected true"),
        ({"model__assistant_lora_path": "a/b"}, "model.assistant_lora_path", "is 'a/b': expected none"),
        ({"model__qtype": "uint4|a/b.safetensors"}, "model.qtype", "expected no accuracy recovery adapter"),
        ({"adapter": {"type": "ip"}}, "adapter", "expected none, because only a LoRA is trained"),
        ({"trigger_word": 123}, "trigger_word", "is 123: expected a text: put it in quotes"),
        ({"save__push_to_hub": True}, "save.hf_repo_id", "is missing: expected the name of a repository"),
        ({"type": "slider"}, "type", "is 'slider': expected sd_trainer"),
        ({"sample__prompts": "a horse"}, "sample.prompts", "is 'a horse': expected a list of prompts"),
    ],
)
def test_what_would_change_what_is_learned_is_refused_by_the_path_of_its_field(tmp_path, changes, field, sentence):
    with pytest.raises(ValueError, match=r"^--config ") as refused:
        read_job(job(tmp_path, **changes))
    assert_one_sentence(refused.value, f"{PROCESS}.{field} ", sentence)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("train__gradient_checkpointing", False),
        ("train__skip_first_sample", True),
        ("train__optimizer_params", {"weight_decay": 0.01, "eps": 1e-6}),
        ("train__loss_type", "mse"),
        ("train__noise_offset", 0.0),
        ("save__max_step_saves_to_keep", 9),
        ("dataset__num_repeats", 1),
        ("dataset__controls", []),
        ("dataset__mask_path", None),
        ("network__conv", 16),
        ("model__low_vram", True),
        ("sample__seed", 7),
        ("logging", {"use_wandb": True}),
        ("performance_log_every", 1000),
        ("type", "diffusion_trainer"),
    ],
)
def test_what_changes_nothing_is_taken(tmp_path, field, value):
    assert read_job(job(tmp_path, **{field: value})).inputs == read_job(job(tmp_path)).inputs


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("trigger_wrod", "expected trigger_word"),
        ("train__gradient_acumulation", "expected gradient_accumulation"),
        ("dataset__caption_dropout", "expected caption_dropout_rate"),
        ("model__something_else", "expected one of name_or_path"),
    ],
)
def test_an_unknown_field_is_refused_with_the_nearest_one(tmp_path, field: str, expected: str):
    with pytest.raises(ValueError, match="is not a field that ai-toolkit has there") as refused:
        read_job(job(tmp_path, **{field: 1}))
    assert_one_sentence(refused.value, f".{field.rpartition('__')[2]} is not", expected)


def test_several_faults_have_a_line_each(tmp_path):
    faulty = job(tmp_path, train__lr=0, network__linear_alpha=1, model__arch="sdxl")
    with pytest.raises(ValueError, match="has 3 faults") as refused:
        read_job(faulty)
    lines = str(refused.value).splitlines()
    assert [line.split()[0].split(".")[-1] for line in lines[1:]] == ["arch", "linear_alpha", "lr"]


def test_absent_settings_are_those_that_ai_toolkit_would_take_and_marked_as_such(tmp_path):
    kept = {"network": {"type": "lora"}, "train": {}, "sample": {}, "save": {}, "trigger_word": None}
    tree = job(tmp_path, datasets=[{"folder_path": str(tmp_path)}], **kept)
    config = read_job(tree)
    expected = {
        "trigger_word": "",
        "lora_rank": 4,
        "steps": 1000,
        "learning_rate": 1e-6,
        "optimizer": "adamw",
        "ema_decay": 0.0,
        "resolution": "512",
        "caption_dropout_rate": 0.0,
        "checkpoint_every": 1000,
        "sample_prompts": "none",
    }
    assert {name: config.inputs[name] for name in expected} == expected
    assert "ai-toolkit's default" in row_of(config, f"{PROCESS}.train.lr")


def test_a_flag_wins_over_a_value_even_one_that_would_be_refused(tmp_path):
    faulty = job(tmp_path, train__steps=9999, train__timestep_type="shift", network__linear=500)
    flags = {"steps": 500, "timestep_logit_mean": 1.0, "lora_rank": 16}
    config = read_job(faulty, **flags)
    assert not flags.keys() & config.inputs.keys()
    assert "--steps 500, which is given, wins" in row_of(config, f"{PROCESS}.train.steps")


def test_a_weight_decay_that_ai_toolkit_does_not_have_is_noted(tmp_path):
    for name, is_noted in (("adamw", False), ("AdamW8bit", False), ("prodigy", True), ("adam8bit", True)):
        config = read_job(job(tmp_path, train__optimizer=name))
        assert ("weight decay 0.01, which is 0 in" in row_of(config, f"{PROCESS}.train.optimizer")) == is_noted


def test_gradient_accumulation_steps_divide_the_steps_which_ai_toolkit_counts_by_batches(tmp_path):
    config = read_job(job(tmp_path, train__gradient_accumulation_steps=4))
    names = ("steps", "gradient_accumulation", "checkpoint_every", "sample_every")
    assert [config.inputs[name] for name in names] == [500, 4, 50, 25]
    config = read_job(job(tmp_path, train__gradient_accumulation=4))
    assert [config.inputs[name] for name in names] == [2000, 4, 200, 100]


def test_sizes_that_are_named_twice_count_once(tmp_path):
    assert read_job(job(tmp_path, dataset__resolution=[1024, 1024])).inputs["resolution"] == "1024"
    assert read_job(job(tmp_path, dataset__resolution=768)).inputs["resolution"] == "768"


def test_the_trigger_word_of_the_data_set_wins_over_that_of_the_process(tmp_path):
    config = read_job(job(tmp_path, dataset__trigger_word="TOK"))
    assert config.inputs["trigger_word"] == "TOK"
    assert config.inputs["sample_prompts"].startswith("TOK on a beach")


def test_prompts_lose_their_options_and_those_beyond_the_limit(tmp_path):
    prompts = [f"horse {number} --w 512 --seed 3" for number in range(10)]
    config = read_job(job(tmp_path, sample__prompts=prompts))
    assert config.inputs["sample_prompts"].splitlines() == [f"horse {number}" for number in range(8)]
    assert "without the options after --, the first 8 of 10" in row_of(config, f"{PROCESS}.sample.prompts")
    config = read_job(job(tmp_path, sample__samples=[{"prompt": "a cat", "width": 64}]))
    assert config.inputs["sample_prompts"] == "a cat"


def test_disabled_sampling_gives_no_samples(tmp_path):
    config = read_job(job(tmp_path, train__disable_sampling=True))
    assert checked_config(**config.inputs).sample_prompts == ()


def test_the_upload_is_asked_for_only_if_the_job_pushes(tmp_path):
    quiet = read_job(job(tmp_path, save__hf_repo_id="me/my-lora"))
    assert "hf_repo_id" not in quiet.inputs
    assert "nothing is uploaded" in row_of(quiet, f"{PROCESS}.save.hf_repo_id")
    pushed = {"save__push_to_hub": True, "save__hf_repo_id": "me/my-lora"}
    assert read_job(job(tmp_path, **pushed)).inputs["hf_repo_id"] == "me/my-lora"
    assert "hf_private" not in read_job(job(tmp_path, **pushed)).inputs, "private, as without a job file"
    assert read_job(job(tmp_path, **pushed, save__hf_private=False)).inputs["hf_private"] is False


@pytest.mark.parametrize(
    ("base", "expected"),
    [("", "dev"), ("dev", ""), ("tiny", ""), ("black-forest-labs/FLUX.1-dev", "")],
)
def test_the_base_is_that_of_the_file_or_one_of_your_own(tmp_path, monkeypatch, base: str, expected: str):
    monkeypatch.setenv("FLUX_BASE", base)
    assert read_job(job(tmp_path)).base == expected


@pytest.mark.parametrize(
    ("arch", "repository", "expected"),
    [
        ("flux2_klein_4b", "black-forest-labs/FLUX.2-klein-base-4B", "klein"),
        ("flux2_klein_9b", "black-forest-labs/FLUX.2-klein-base-9B", "klein-9b"),
    ],
)
def test_a_job_for_flux_2_klein_names_its_base(tmp_path, monkeypatch, arch: str, repository: str, expected: str):
    """With the names that ai-toolkit's own page writes."""
    monkeypatch.delenv("FLUX_BASE", raising=False)
    config = read_job(job(tmp_path, model__arch=arch, model__is_flux=None, model__name_or_path=repository))
    assert config.base == expected


@pytest.mark.parametrize("field", ["sample__neg", "network__split_multistage_loras", "train__switch_boundary_every"])
def test_what_is_noted_of_a_job_for_flux_2_klein_is_not_about_flux_1(tmp_path, field: str):
    klein = {"arch": "flux2_klein_4b", "name_or_path": "black-forest-labs/FLUX.2-klein-base-4B"}
    config = read_job(job(tmp_path, model=klein, **{field: 1}))
    assert "FLUX.1" not in config.table


def test_another_published_base_than_that_of_the_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("FLUX_BASE", "krea")
    with pytest.raises(ValueError, match=r"expected black-forest-labs/FLUX\.1-Krea-dev, because FLUX_BASE is krea"):
        read_job(job(tmp_path))


def test_a_folder_on_this_machine_can_be_the_base(tmp_path):
    assert read_job(job(tmp_path, model__name_or_path=str(tmp_path))).base == str(tmp_path)


@pytest.mark.parametrize("name", ["../out", "a/b", "a\\b", "a\x1b[2J"])
def test_a_name_that_would_write_elsewhere_is_refused(tmp_path, name: str):
    tree = job(tmp_path)
    tree["config"]["name"] = name
    with pytest.raises(ValueError, match=r"config\.name is .*: expected a name for a file, without a folder"):
        read_job(tree)


@pytest.mark.parametrize("kind", ["generate", "train", "mod", None])
def test_other_jobs_are_refused(tmp_path, kind):
    with pytest.raises(ValueError, match=r"job is .*: expected extension, a training"):
        read_job({**job(tmp_path), "job": kind})


def test_a_job_of_two_processes_is_refused(tmp_path):
    tree = job(tmp_path)
    tree["config"]["process"] *= 2
    with pytest.raises(ValueError, match=r"config\.process is a list of 2: expected a list of one process"):
        read_job(tree)


def test_no_value_can_move_the_cursor_of_a_terminal(tmp_path):
    config = read_job(job(tmp_path, trigger_word="a\x1b[2Jb"))
    assert "\x1b" not in config.table
