"""Promises: networks as they are published climb calib -> int -> hbm -> simulator, bit-exact, wholly on the BPU. All tools are real."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.integration.toolchains import nets, networks
from tests.integration.toolchains.conftest import Convert

pytestmark = pytest.mark.vendor


@pytest.mark.parametrize(
    ("network", "size", "march"),
    [
        (networks.MobileNetV2, 224, "bayes-e"),
        (networks.ResNet18, 224, "bayes"),
        (networks.Detector, 416, "bayes-e"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_published_network_is_bit_exact(convert: Convert, network: type, size: int, march: str) -> None:
    pictures = nets.nv12_pictures(np.random.default_rng(3), 3, size, size)
    tensors = nets.training_tensor(pictures)
    outputs = getattr(network, "OUTPUTS", ("logits",))
    entry = nets.entry(network.__name__.lower(), [nets.nv12_input(size, size)], march)
    net = network()
    converted = convert(net, entry, [(tensor[None],) for tensor in tensors], outputs)

    given = converted.run_int({"data": nets.yuv444_128(pictures)})
    simulated = converted.simulate({"data": pictures})
    raw = {item.name: item.raw_name for item in converted.described().outputs}
    assert sorted(simulated) == sorted(raw.values())
    with torch.no_grad():
        trained = net(torch.from_numpy(tensors))
    trained = dict(zip(outputs, trained if isinstance(trained, tuple) else (trained,), strict=True))
    for name, raw_name in raw.items():
        assert np.array_equal(simulated[raw_name], given[raw_name]), f"{name}: the simulator computes other integers"
        assert len(np.unique(simulated[raw_name])) > 20, f"{name}: too few values to prove anything"
        ours, theirs = trained[name].numpy().ravel().astype(np.float64), given[name].ravel().astype(np.float64)
        cosine = ours @ theirs / np.sqrt((ours @ ours) * (theirs @ theirs))
        assert cosine > 0.99, f"{name}: int strays from the trained network, cosine {cosine:.4f}"

    report = converted.report()
    assert report.operators["cpu"] == 0, report.cpu_operators
    assert report.latency_ms > 0
    assert report.size_mb > 0
