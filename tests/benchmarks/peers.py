"""The peers of fault campaigns, each through its own documented way of flipping a bit of a weight, and the network for all.

``python peers.py TOOL FOLDER`` runs, in one thread, the faults in ``FOLDER/faults.json`` over the images in
``FOLDER/images.npy`` and writes ``FOLDER/TOOL.json``. Nothing of hwbench is imported.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import process_time

import numpy as np
import torch
from torch import nn

Fault = tuple[str, int, int]  # the tensor, the flat index of its element, the bit


class Block(nn.Module):
    """Two convolutions and what goes past them."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(c_in, c_out, 3, stride, 1)
        self.second = nn.Conv2d(c_out, c_out, 3, 1, 1)
        self.skip = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.second(torch.relu(self.first(x))) + self.skip(x))


class ResNet20(nn.Module):
    """The CIFAR ResNet-20 (He et al., 2016), normalization folded into its convolutions as every runtime has it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 1, 1)
        widths = [16, 16, 16, 16, 32, 32, 32, 64, 64, 64]
        pairs = itertools.pairwise(widths)
        self.blocks = nn.Sequential(*(Block(c_in, c_out, c_out // c_in) for c_in, c_out in pairs))
        self.classifier = nn.Linear(64, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.blocks(torch.relu(self.stem(image))).mean((2, 3))
        return self.classifier(features)


def resnet20(images: torch.Tensor) -> ResNet20:
    """With seeded weights, under which the images are told apart: each class stands out for some of them."""
    torch.manual_seed(0)
    model = ResNet20().eval()
    with torch.inference_mode():
        for name, module in model.named_modules():
            if isinstance(module, nn.Conv2d):
                gain = 0.5 if name.endswith("second") else 1.0 if name.endswith("skip") else 2.0
                nn.init.normal_(module.weight, std=(gain / module.weight[0].numel()) ** 0.5)
        model.classifier.bias -= model(images).mean(0)
    return model


def pytorchfi(model: nn.Module, images: torch.Tensor, faults: Sequence[Fault]) -> Iterator[torch.Tensor]:
    """The output under each fault, by PyTorchFI's weight injection with a function of the user's."""
    from pytorchfi.core import fault_injection

    kinds = (nn.Conv2d, nn.Linear)
    tool = fault_injection(model, len(images), list(images.shape[1:]), list(kinds), use_cuda=False)
    layers = {f"{name}.weight": module for name, module in model.named_modules() if isinstance(module, kinds)}
    numbers = {name: place for place, name in enumerate(layers)}
    for tensor, element, bit in faults:

        def flip(weight: torch.Tensor, place: tuple[int | None, ...], mask: int = _mask(bit)) -> torch.Tensor:
            return (weight[place].view(torch.int32) ^ mask).view(torch.float32)

        shape = layers[tensor].weight.shape
        place = [*map(int, np.unravel_index(element, shape)), None, None][:4]
        places = dict(zip(("k", "dim1", "dim2", "dim3"), ([at] for at in place), strict=True))
        faulty = tool.declare_weight_fi(function=flip, layer_num=[numbers[tensor]], **places)
        yield faulty(images)


def mrfi(model: nn.Module, images: torch.Tensor, faults: Sequence[Fault]) -> Iterator[torch.Tensor]:
    """The output under each fault, by MRFI's weight injection at a fixed position and bit.

    An enabled injection restores the weights before it changes them, so the one of the last trial stays enabled, without a
    position, for one trial more.
    """
    from mrfi import MRFI, EasyConfig

    injection = {
        "type": "weight",
        "name": ["weight"],
        "enabled": False,
        "selector": {"method": "FixPositions", "positions": []},
        "error_mode": {"method": "FloatFixedBitFlip", "bit": 0},
        "module_type": ["Conv2d", "Linear"],
    }
    tool = MRFI(model, EasyConfig({"faultinject": [injection]}))
    last = None
    for tensor, element, bit in faults:
        (config,) = tool.get_weights_configs(module_fullname=tensor.removesuffix(".weight"))
        config.selector.args.positions, config.error_mode.args.bit, config.enabled = [element], bit, True
        yield tool(images)
        config.selector.args.positions = []
        if last not in (None, config):
            last.enabled = False
        last = config


def _mask(bit: int) -> int:
    return int(np.uint32(1 << bit).view(np.int32))


TOOLS: dict[str, Callable[[nn.Module, torch.Tensor, Sequence[Fault]], Iterator[torch.Tensor]]] = {
    "pytorchfi": pytorchfi,
    "mrfi": mrfi,
}


def main(name: str, folder: Path) -> None:
    torch.set_num_threads(1)
    images = torch.from_numpy(np.load(folder / "images.npy"))
    faults = [tuple(fault) for fault in json.loads((folder / "faults.json").read_text())]
    model = resnet20(images)
    with torch.no_grad():
        golden = model(images)
        start = process_time()
        counts = []
        for out in TOOLS[name](model, images, faults):
            finite = out.isfinite().all(1)
            changed = finite & (out.argmax(1) != golden.argmax(1))
            counts.append([int(changed.sum()), int((~finite).sum())])
        seconds = process_time() - start
    made = {"seconds": seconds, "counts": counts, "golden": golden.argmax(1).tolist()}
    (folder / f"{name}.json").write_text(json.dumps(made))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
