"""The names that a person chooses from. Loads no library, so that a wrong one is told at once."""

# Optimizers, with the bytes of state for each parameter. Of 8-bit ones: codes, and a scale in fp32 for each block of
# 256 (tensors of less than 4096 elements are kept in 32 bits). Prodigy also keeps where it started and how far the
# gradients led. Adafactor keeps a mean in fp32 for each row and column: at most this where both sides are 8 or more.
CODE = 1 + 4 / 256
BYTES_PER_PARAMETER = {
    "adamw8bit": 2 * CODE,
    "adamw": 8.0,
    "adam8bit": 2 * CODE,
    "adam": 8.0,
    "prodigy": 16.0,
    "lion8bit": CODE,
    "lion": 4.0,
    "adagrad": 4.0,
    "adafactor": 1.0,
}
OPTIMIZERS = tuple(BYTES_PER_PARAMETER)
SCHEDULES = ("constant", "cosine", "linear")
PRECISIONS = ("auto", "bf16", "int8", "nf4")
EXTRA_LAYOUTS = ("none", "kohya")
