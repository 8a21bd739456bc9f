"""The average of flattened weights is that of separate ones."""

import torch
from diffusers.training_utils import EMAModel

from lora.training.learning.average import Average
from lora.training.recipe.stepping import FlatOptimizer
from tests.tiny import a_recipe


def test_the_average_of_flattened_parameters_equals_that_of_separate_ones_bit_for_bit():
    trained = [torch.nn.Parameter(torch.randn(shape)) for shape in ((3, 4), (5,), (2, 2))]
    flat = FlatOptimizer(a_recipe(optimizer="adamw"), trained).flat
    average = Average(trained, flat=flat, decay=0.9)
    expected = EMAModel(trained, decay=0.9, foreach=True)
    assert flat is not None
    for _ in range(5):
        with torch.no_grad():
            flat.add_(torch.randn_like(flat))
        average.step(trained)
        expected.step(trained)
        assert all(map(torch.equal, average.shadow_params, expected.shadow_params))
    assert average.optimization_step == expected.optimization_step == 5
    copies = [torch.nn.Parameter(torch.zeros_like(each)) for each in trained]
    average.copy_to(copies)
    assert all(map(torch.equal, copies, expected.shadow_params))
