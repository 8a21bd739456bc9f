"""Imported last by the process that tests fork: garbage collections then skip the objects that imports have made, and
transformers has compiled the thousand regular expressions that it needs for its first model. No tensor is computed, as
that could start threads, which a forked process would lack."""

import gc

from transformers.conversion_mapping import get_checkpoint_conversion_mapping

get_checkpoint_conversion_mapping("t5")
gc.collect()
gc.freeze()
