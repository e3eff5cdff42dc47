"""The training loop all sample models share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from qatladder.runner.adapter import Adapter


@dataclass(frozen=True)
class Recipe:
    """How a model is trained: float epochs up to `rate`, then QAT epochs down from `qat_rate`.

    Attributes:
        adapter: file.py:ClassName in the adapters folder; its `preprocess` is what the network is trained behind.
        shape: of the exported input.
        jitter: standard deviation of Gaussian noise added to the preprocessed input in training.
    """

    adapter: str
    shape: tuple[int, ...]
    batch: int
    epochs: int
    rate: float
    qat_epochs: int
    qat_rate: float
    jitter: float = 0.0


def tensors(adapter: Adapter, raw: dict[str, np.ndarray], name: str, indices: np.ndarray, jitter: float) -> Tensor:
    """Preprocess some training samples: float32 [n, ...]."""
    ready = [adapter.preprocess({key: array[index] for key, array in raw.items()})[name] for index in indices]
    x = torch.from_numpy(np.concatenate(ready))
    return x + jitter * torch.randn_like(x) if jitter else x


def fit(
    network: nn.Module,
    batches: Callable[[np.ndarray], Tensor],
    targets: list[Tensor],
    loss: Callable[..., Tensor],
    epochs: int,
    batch: int,
    rate: float,
    warmup: float,
) -> float:
    """Train in place with AdamW and return the mean loss of the last epoch.

    Args:
        batches: sample indices to the network's input.
        targets: [N, ...] each, what `loss(outputs, *targets)` takes.
        rate: peak; it rises to it over the first `warmup` (share of all steps) and falls to 0 along a cosine.
    """
    count = len(targets[0])
    steps = epochs * (count // batch)
    optimiser = torch.optim.AdamW(network.parameters(), rate, weight_decay=0.01)

    def share(step: int) -> float:
        done = step / steps
        if done < warmup:
            return 0.1 + 0.9 * done / warmup
        return 0.5 + 0.5 * math.cos(math.pi * (done - warmup) / (1 - warmup))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, share)
    network.train()
    total = torch.zeros(())
    for _ in range(epochs):
        total.zero_()
        for chosen in _shuffled(count, batch):
            value = loss(network(batches(chosen)), *(target[chosen] for target in targets))
            optimiser.zero_grad(set_to_none=True)
            value.backward()
            optimiser.step()
            schedule.step()
            total += value.detach()
    network.eval()
    return float(total) / (count // batch)


def _shuffled(count: int, batch: int) -> Iterator[np.ndarray]:
    order = torch.randperm(count).numpy()
    for start in range(0, count - batch + 1, batch):
        yield order[start : start + batch]
