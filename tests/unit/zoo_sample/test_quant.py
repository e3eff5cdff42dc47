"""Fake-quant is the integer arithmetic it stands for, to the last bit."""

import numpy as np
import pytest
import torch
from training.digits_det import Network
from training.quant import ActivationQuant, ConvUnit, WeightQuant, calibrate, prepare


def by_formula(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """float32 throughout, as torch computes it: times the reciprocal, round half to even, clamp, times the scale."""
    steps = np.rint(x * (np.float32(1) / scale))
    return np.clip(steps, -128, 127).astype(np.float32) * scale


@pytest.mark.parametrize("scale", [0.0208, 1 / 64, 0.7, 3e-4])
def test_an_activation_follows_the_formula_exactly(scale):
    quant = ActivationQuant(1.0)
    quant.scale.fill_(scale)
    ties = (np.arange(-140, 141) + 0.5).astype(np.float32) * np.float32(scale)
    x = np.concatenate([ties, np.random.RandomState(0).normal(0, 60 * scale, 20000).astype(np.float32)])
    expected = by_formula(x, quant.scale.numpy()[0])
    assert np.array_equal(quant(torch.from_numpy(x)).numpy(), expected)
    assert expected.min() == np.float32(-128) * np.float32(scale)
    assert expected.max() == np.float32(127) * np.float32(scale)


def test_a_weight_follows_the_formula_per_output_channel():
    weight = (
        np.random.RandomState(1).normal(0, 1, (8, 4, 3, 3)).astype(np.float32)
        * np.logspace(-3, 1, 8, dtype=np.float32)[:, None, None, None]
    )
    quant = WeightQuant(8).eval()
    quant.follow(torch.from_numpy(weight))
    scale = (np.abs(weight).max(axis=(1, 2, 3)) / np.float32(127)).astype(np.float32)
    assert np.array_equal(quant.scale.numpy(), scale)
    assert np.array_equal(quant(torch.from_numpy(weight)).detach().numpy(), by_formula(weight, scale[:, None, None, None]))


def test_gradients_pass_inside_the_clamping_range_and_stop_outside():
    quant = ActivationQuant(1.0)
    x = torch.tensor([-200.0, -128.0, 0.3, 127.0, 200.0], requires_grad=True)
    quant(x).sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize(("percentile", "expected"), [(1.0, (10.0 + 20.0) / 2), (0.75, (3.0 + 6.0) / 2)])
def test_calibration_averages_the_batches_thresholds(percentile, expected):
    quant = ActivationQuant(percentile)
    batch = torch.tensor([1.0, -2.0, 3.0, -10.0])
    calibrate(quant, [batch, 2 * batch])
    assert quant.scale.item() == pytest.approx(expected / 127)
    assert quant(torch.tensor(2 * expected)).item() == pytest.approx(expected)


def test_folding_batch_norm_changes_nothing_but_rounding():
    torch.manual_seed(0)
    unit = ConvUnit(3, 5)
    unit.train()
    for _ in range(20):
        unit(torch.randn(8, 3, 9, 9) * 2 + 1)
    unit.eval()
    with torch.no_grad():
        unit.norm.weight.uniform_(0.5, 2)
        unit.norm.bias.normal_()
        x = torch.randn(4, 3, 9, 9)
        before = unit(x)
        unit.fold()
        torch.testing.assert_close(unit(x), before, atol=1e-5, rtol=1e-5)
    assert isinstance(unit.norm, torch.nn.Identity)


def test_preparing_quantises_input_and_every_unit_once_and_leaves_the_heads_open():
    network = Network()
    prepare(network)
    units = [module for module in network.modules() if isinstance(module, ConvUnit)]
    assert all(isinstance(unit.weight_quant, WeightQuant) for unit in units)
    assert isinstance(network.image, ActivationQuant)
    assert [isinstance(unit.output, ActivationQuant) for unit in units] == [not unit.head for unit in units]
    assert sum(unit.head for unit in units) == len(network.outputs)


def test_a_skip_is_added_before_the_one_rounding():
    unit = ConvUnit(2, 2, kernel=1)
    prepare(unit)
    with torch.no_grad():
        unit.conv.weight.zero_()
        unit.conv.bias.fill_(0.4)
        unit.output.scale.fill_(1.0)
        assert unit(torch.zeros(1, 2, 1, 1), skip=torch.full((1, 2, 1, 1), 0.4)).flatten().tolist() == [1.0, 1.0]  # 0.8, not 0 + 0
        assert unit(torch.zeros(1, 2, 1, 1), skip=torch.full((1, 2, 1, 1), -5.0)).flatten().tolist() == [0.0, 0.0]
