"""The output of a training: the tar, the metadata of the LoRA and its licence."""
