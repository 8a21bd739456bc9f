"""The fields of an ai-toolkit job: which become inputs here, which have no effect, and which are taken with one value.

Names, defaults and meaning are those of toolkit/config_modules.py of ostris/ai-toolkit at 27a03a91 (August 2026).
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NoEffect:
    """A field that does not change what is learned."""

    because: str


@dataclass(frozen=True, slots=True)
class Only:
    """A field that is taken with these values; another one would change what is learned. None stands for absent."""

    values: tuple[object, ...]
    because: str


Rule = NoEffect | Only
OFF = (False, None)  # the values of what this trainer does not have


def _each(names: str, rule: Rule) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


def _off(names: str, because: str = "this trainer does not have it") -> dict[str, Rule]:
    return _each(names, Only(OFF, because))


def _value(because: str = "this trainer does not have it", **neutral: object) -> dict[str, Rule]:
    return {name: Only((value, None), because) for name, value in neutral.items()}


PLAN = NoEffect("the plan chooses what fits into memory")
LOG = NoEffect("the log has each step")
SAMPLES = NoEffect("samples are generated as diffusers does")
ONE_IMAGE = NoEffect("this trainer reads images, no videos")
OTHER_MODEL = "only FLUX.1-dev, FLUX.1-Krea-dev and FLUX.2-klein-base are trained here"
GUIDANCE = "no training step has a second pass here, and FLUX.1-dev has guidance 1"
NO_GUIDANCE = "FLUX.2 [klein] has no guidance embedding"
LOSS = "the loss here is the mean squared error of the velocity"
NOISE = "the noise here is that of FLUX, unchanged"
CAPTIONS = "captions are trained as they are written"
CONTROLS = (
    "a job file takes no control images here; pairs for edits are trained by --lora-type edit, with references/NAME.png"
    " beside NAME.png"
)
PIXELS = "images are trained as they are, in their own shape"

MAPPED = {
    kind: tuple(names.split())
    for kind, names in {
        "job": "job config",
        "config": "name process",
        "process": "type training_folder trigger_word training_seed network save datasets train model sample logging",
        "network": "type linear rank linear_alpha alpha network_kwargs",
        "network_kwargs": "only_if_contains ignore_if_contains",
        "save": "save_every push_to_hub hf_repo_id hf_private",
        "datasets": (
            "folder_path dataset_path trigger_word caption_dropout_rate cache_latents_to_disk resolution alpha_mask"
            " mask_min_value"
        ),
        "train": (
            "steps batch_size gradient_accumulation gradient_accumulation_steps lr unet_lr optimizer optimizer_params"
            " lr_scheduler ema_config timestep_type disable_sampling bypass_guidance_embedding"
        ),
        "optimizer_params": "weight_decay eps betas",
        "ema_config": "use_ema ema_decay",
        "model": "name_or_path is_flux arch quantize model_kwargs",
        "model_kwargs": "",
        "sample": "prompts samples sample_every guidance_scale sample_steps",
        "logging": "",
    }.items()
}

FIELDS: dict[str, dict[str, Rule]] = {
    "job": _each("meta", NoEffect("it describes the file")),
    "config": {
        **_each("device log_dir", NoEffect("every visible GPU is used")),
        **_each("training_folder training_seed", Only((None,), "it belongs to config.process[0]")),
    },
    "process": {
        **_each("device", NoEffect("every visible GPU is used")),
        **_each("performance_log_every log_dir sqlite_db_path torch_profiler is_ui", LOG),
        **_each("first_sample", SAMPLES),
        **_off("embedding adapter decorator guidance slider do_lorm", "only a LoRA is trained here"),
        **_each("lorm_extract_mode lorm_extract_mode_param", NoEffect("there is no LoRM here")),
    },
    "network": {
        **_each("conv conv_alpha", NoEffect("the blocks of FLUX have no convolutions")),
        **_each("lokr_full_rank lokr_factor old_lokr_format", NoEffect("the network is a LoRA")),
        **_each("split_multistage_loras", NoEffect("FLUX is one model")),
        **_each("layer_offloading", PLAN),
        **_value("a LoRA has no dropout here", dropout=0),
        **_value("only the linear layers inside the blocks are trained here", transformer_only=True),
        **_off("all_layers lorm", "only the linear layers inside the blocks are trained here"),
        **_each(
            "pretrained_lora_path", Only((None,), "an existing LoRA is continued by --resume-from file.safetensors")
        ),
    },
    "network_kwargs": _off("full_if_contains", "only LoRA layers are trained here"),
    "save": {
        **_each("dtype", NoEffect("the LoRA is saved in bf16")),
        **_each("max_step_saves_to_keep", NoEffect("the newest checkpoints are kept, and the LoRA of the best step")),
        **_each("save_format", NoEffect("the LoRA has the layout of diffusers")),
    },
    "datasets": {
        **_each("caption_ext caption_type", Only(("txt", ".txt", "caption", ".caption"), "these are read here")),
        **_each("cache_latents cache_text_embeddings", NoEffect("images and captions are encoded once")),
        **_each("num_workers prefetch_factor cache_latents_num_workers", NoEffect("images are encoded once")),
        **_each("load_image_when_caching_latents fast_image_size debug", NoEffect("images are read once")),
        **_each("cache_tensors_to_disk cache_clip_vision_to_disk", NoEffect("cache_latents_to_disk caches all here")),
        **_each("num_frames", Only((1,), "this trainer reads images, no videos")),
        **_each("shrink_video_to_frames fps auto_frame_count trim_auto_frame_count_tail", ONE_IMAGE),
        **_each("do_audio audio_preserve_pitch audio_normalize do_i2v", ONE_IMAGE),
        **_value("all images have one size for a batch", type="image", buckets=True, batch_size=None),
        **_each("bucket_tolerance", NoEffect("docs/dataset.md says how sizes are chosen")),
        **_value(PIXELS, scale=1, standardize_images=False, square_crop=False, random_scale=False, random_crop=False),
        **_off("flip_x flip_y augments augmentations shuffle_augmentations", PIXELS),
        **_off("is_reg prior_reg", "preservation takes its place here, without images of yours: --preservation 0.25"),
        **_value("all images count the same", network_weight=1, loss_multiplier=1),
        **_value("steps counts steps, whatever the number of repeats", num_repeats=1),
        **_value(CAPTIONS, token_dropout_rate=0, shuffle_tokens=False, random_triggers=None, replacements=None),
        **_off("default_caption use_short_captions", "an image without a caption gets the trigger word alone"),
        **_each("keep_tokens random_triggers_max", NoEffect("captions are trained as they are written")),
        **_off("mask_path", "masks are in the folder of the images here, as masks/NAME.png"),
        **_off("unconditional_path invert_mask"),
        **_off("control_path control_path_1 control_path_2 control_path_3 inpaint_path controls", CONTROLS),
        **_off("control_from_same_folder clip_image_path clip_image_from_same_folder", CONTROLS),
        **_each("num_controls_from_same_folder control_transparent_color", NoEffect(CONTROLS)),
        **_each("full_size_control_images replay_transforms guidance_type", NoEffect(CONTROLS)),
        **_off("clip_image_augmentations clip_image_shuffle_augmentations extra_values poi", CONTROLS),
        **_off("diff_output_preservation", "preservation takes its place here: --preservation 0.25"),
        **_each("diff_output_preservation_class", NoEffect("it is for diff_output_preservation")),
    },
    "train": {
        **_each("dtype xformers sdp attention_backend gradient_checkpointing single_item_batching", PLAN),
        **_each("skip_first_sample force_first_sample", NoEffect("samples are generated before and after as well")),
        **_each("noise_scheduler", Only(("flowmatch",), "FLUX is trained by flow matching")),
        **_each("train_unet", Only((True,), "the LoRA is on the transformer")),
        **_off("train_text_encoder train_turbo", "only the transformer is trained here"),
        **_each("text_encoder_lr refiner_lr embedding_lr adapter_lr train_refiner", NoEffect("it is not trained")),
        **_value(
            "there is no such balance here: remove it, and give --timestep-logit-mean", content_or_style="balanced"
        ),
        **_each("next_sample_timesteps", NoEffect("it is for another timestep_type")),
        **_off("linear_timesteps linear_timesteps2", LOSS),
        **_value(LOSS, loss_type="mse", loss_target="noise", pred_scaler=1, reg_weight=1, audio_loss_multiplier=1),
        **_value(LOSS, min_snr_gamma=None, snr_gamma=None, max_loss=None, target_norm_std=None),
        **_off("learnable_snr_gos t0_loss_target t0_velocity_equiv_weight do_fft_loss", LOSS),
        **_off("do_fft_velocity_equiv_weight do_prior_divergence do_guidance_loss correct_pred_norm", LOSS),
        **_off("do_differential_guidance do_blank_stabilization inverted_mask_prior match_noise_norm", LOSS),
        **_off("latent_feature_extractor_path diffusion_feature_extractor_path do_guidance_loss_cfg_zero", LOSS),
        **_each("target_norm_std_value correct_pred_norm_multiplier inverted_mask_prior_multiplier", NoEffect(LOSS)),
        **_each("guidance_loss_target guidance_loss_schedule differential_guidance_scale", NoEffect(LOSS)),
        **_each("latent_feature_loss_weight diffusion_feature_extractor_weight max_loss_debug", NoEffect(LOSS)),
        **_each("unconditional_prompt negative_prompt max_negative_prompts", NoEffect(LOSS)),
        **_value(NOISE, noise_offset=0, noise_multiplier=1, target_noise_multiplier=1, random_noise_multiplier=0),
        **_value(NOISE, random_noise_shift=0, img_multiplier=1, noisy_latent_multiplier=1, latent_multiplier=1),
        **_value(NOISE, num_train_timesteps=1000, min_denoising_steps=0, optimal_noise_pairing_samples=1),
        **_each("max_denoising_steps", Only((999, 1000), NOISE)),
        **_off("dynamic_noise_offset do_signal_correction_noise do_batch_noise_correction", NOISE),
        **_off("do_signal_amplification force_consistent_noise blended_blur_noise adaptive_scaling_factor", NOISE),
        **_each("batch_noise_correction_scale signal_amplification_strength", NoEffect(NOISE)),
        **_each("signal_correction_noise_scale show_turbo_outputs free_u", NoEffect(NOISE)),
        **_off("diff_output_preservation blank_prompt_preservation", "it is --preservation 0.25 here"),
        **_each("diff_output_preservation_multiplier diff_output_preservation_class", NoEffect("it is off")),
        **_each("blank_prompt_preservation_multiplier", NoEffect("it is off")),
        **_off("do_cfg do_random_cfg", GUIDANCE),
        **_value(GUIDANCE, cfg_scale=1, max_cfg_scale=1, cfg_rescale=1),
        **_value(CAPTIONS, prompt_dropout_prob=0, prompt_saturation_chance=0, short_and_long_captions=False),
        **_off("short_and_long_captions_encoder_split", CAPTIONS),
        **_off("unload_text_encoder", "it drops all captions"),
        **_each("cache_text_embeddings", NoEffect("captions are encoded once")),
        **_value("gradients are clipped to norm 1", max_grad_norm=1),
        **_value(weight_jitter=0, start_step=0, match_adapter_chance=0, lr_scheduler_params=None),
        **_off("merge_network_on_save do_paramiter_swapping standardize_images standardize_latents"),
        **_off("adapter_assist_name_or_path match_adapter_assist"),
        **_each("merge_network_on_save_strength paramiter_swapping_factor adapter_assist_type", NoEffect("it is off")),
        **_each("switch_boundary_every", NoEffect("FLUX is one model")),
        **_each("validation_config", NoEffect("--validation holds images out here")),
    },
    "optimizer_params": {},
    "ema_config": _value(use_feedback=False, param_multiplier=1),
    "model": {
        **_each("dtype low_vram qtype qtype_te quantize_te quantize_kwargs text_encoder_bits vae_device", PLAN),
        **_each("vae_dtype te_device te_dtype layer_offloading auto_memory split_model_over_gpus", PLAN),
        **_each("split_model_other_module_param_count_scale layer_offloading_transformer_percent", PLAN),
        **_each("layer_offloading_text_encoder_percent compile block_compile compile_mode", PLAN),
        **_each("compile_fullgraph compile_dynamic cache_size_limit", PLAN),
        **_off("is_v2 is_v3 is_xl is_pixart is_pixart_sigma is_auraflow is_lumina2 is_ssd is_vega", OTHER_MODEL),
        **_off("is_v_pred experimental_xl refiner_name_or_path unet_path model_paths in_context", OTHER_MODEL),
        **_off("vae_path te_name_or_path extras_name_or_path", "all parts come from one base here: set FLUX_BASE"),
        **_off(
            "assistant_lora_path lora_path inference_lora_path unconditional_lora_path", "the base has no LoRA here"
        ),
        **_off("accuracy_recovery_adapter", "the base has no LoRA here"),
        **_off("use_flux_cfg", GUIDANCE),
        **_off("attn_masking", "FLUX sees all tokens of a prompt here, as in diffusers"),
        **_off("only_if_contains ignore_if_contains latent_space_version", OTHER_MODEL),
        **_each("use_text_encoder_1 use_text_encoder_2", Only((True,), OTHER_MODEL)),
        **_each("refiner_start_at unet_sample_size", NoEffect("it is for other models")),
    },
    "model_kwargs": _each("match_target_res", NoEffect("it is the size of control images")),
    "sample": {
        **_each("width height", NoEffect("samples are squares of the largest resolution")),
        **_each("seed walk_seed", NoEffect("the seeds of samples are 42, 43 and so on")),
        **_each("sample_start_step", NoEffect("samples are generated from the start on")),
        **_each("neg", NoEffect("the negative prompt of samples is empty here, as in the pipelines of diffusers")),
        **_each("sampler format network_multiplier", SAMPLES),
        **_each("guidance_rescale adapter_conditioning_scale refiner_start_at extra_values", SAMPLES),
        **_each("num_frames fps do_cfg_norm", SAMPLES),
    },
    "logging": {
        **_each("log_every verbose use_ui_logger", LOG),
        **_each("use_wandb", NoEffect("--log wandb records the training with Weights & Biases")),
        **_each("project_name run_name", NoEffect("--wandb-project and --wandb-run name them here")),
    },
}
