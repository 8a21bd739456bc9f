"""A captioner runs where it is predicted to fit: on the GPU in batches, else one by one, on the CPU, or nowhere."""

import pytest

from lora.training.memory.captioner import BYTES_PER_IMAGE, WORKSPACE, captioner_placements

PARAMETERS = 2_000_000_000
ONE_ON_GPU = 2 * PARAMETERS + WORKSPACE + BYTES_PER_IMAGE
FOUR_ON_GPU = ONE_ON_GPU + 3 * BYTES_PER_IMAGE
ON_HOST = 4 * PARAMETERS + WORKSPACE + BYTES_PER_IMAGE


@pytest.mark.parametrize(
    ("gpu", "host", "expected"),
    [
        (FOUR_ON_GPU, ON_HOST, [(True, 4), (True, 1), (False, 1)]),
        (FOUR_ON_GPU - 1, ON_HOST, [(True, 1), (False, 1)]),
        (ONE_ON_GPU - 1, ON_HOST, [(False, 1)]),
        (ONE_ON_GPU, ON_HOST - 1, [(True, 1)]),
        (0, ON_HOST, [(False, 1)]),
        (0, ON_HOST - 1, []),
    ],
)
def test_the_placements_are_those_that_fit_from_the_fastest_on(gpu, host, expected):
    found = captioner_placements(PARAMETERS, free_gpu_bytes=gpu, free_host_bytes=host)
    assert [(each.on_gpu, each.batch_size) for each in found] == expected
