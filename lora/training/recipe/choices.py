"""The names that a user can choose from, and the bytes of state that each optimizer keeps per parameter.

Imports no library, so that a wrong name is refused at once.
"""

# Optimizers, with the bytes of state per parameter. The 8-bit ones keep codes, and an fp32 scale for each block of 256
# (tensors of fewer than 4096 elements are kept in 32 bits). Prodigy also keeps its starting point and a sum of
# gradients. Adafactor keeps an fp32 mean for each row and column: at most this value where both sides are 8 or more.
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
