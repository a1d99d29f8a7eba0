"""A deployed model, parsed once: its graph, its numbers, and every place in it that can have a fault."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from hwbench.errors import InputError
from hwbench.faults import names
from hwbench.faults.activations import Activations
from hwbench.faults.cuts import GraphCutter
from hwbench.faults.space import FaultSpace
from hwbench.stored import Inventory
from hwbench.studies.base import Case
from hwbench.table import Row
from hwbench.worker.perturb import stored_initializers, weight_widths

Array = np.ndarray[Any, np.dtype[Any]]
Places = Literal["stored", "activations", "inputs", "artefact"]
NO_NUMBERS = "no stored numbers to flip"


@dataclass(frozen=True)
class Deployed:
    """A deployed model.

    Attributes:
        path: Its file.
        model: The model.
        stored: Its numbers, by the names of `hwbench.stored`.
        cutter: Its graph, ready to be cut.
        space: The bits of these numbers.
    """

    path: Path
    model: onnx.ModelProto
    stored: Mapping[str, Array]
    cutter: GraphCutter
    space: FaultSpace

    @cached_property
    def activations(self) -> Activations:
        """The tensors between operators, and the inputs."""
        return Activations.of(self.cutter)

    @cached_property
    def artefact(self) -> FaultSpace:
        """The bytes of the file.

        Raises:
            InputError: The build is more than one file.
        """
        if len(files := sorted(file.name for file in self.path.parent.glob(f"{self.path.name}*"))) > 1:
            raise InputError(
                f"this build is {len(files)} files ({', '.join(files)}) and faults in the artefact need a single file; "
                "leave out --places to draw faults in its stored numbers"
            )
        return FaultSpace.of_file(names.ARTEFACT, self.path.stat().st_size)

    def part(self, places: Places) -> FaultSpace:
        """The fault space of one kind of places."""
        if places == "stored":
            return self.space
        if places == "artefact":
            return self.artefact
        role = "input" if places == "inputs" else "activation"
        return FaultSpace(tuple(tensor for tensor in self.activations.space.tensors if tensor.role == role))

    def whole(self, listed: Collection[str]) -> FaultSpace:
        """The fault space that a list of tensors is from."""
        space = self.space
        if any(names.activation_of(name) is not None for name in listed):
            space += self.activations.space
        return space + self.artefact if names.ARTEFACT in listed else space

    def numbers(self, listed: Collection[str]) -> dict[str, Array]:
        """Arrays of the type and size of every tensor that a list may name; the stored ones with their content."""
        found = dict(self.stored)
        if any(names.activation_of(name) is not None for name in listed):
            found |= self.activations.stand_ins
        if names.ARTEFACT in listed:
            found[names.ARTEFACT] = np.broadcast_to(np.uint8(0), (self.artefact.size // 8,))
        return found


@lru_cache(maxsize=4)
def deployed(path: Path) -> Deployed:
    """Parse a deployed model."""
    model = onnx.load(path)
    stored = stored_initializers(model)
    return Deployed(path, model, stored, GraphCutter(model), FaultSpace.of(model, stored))


@dataclass(frozen=True)
class Contents:
    """Summary of the numbers that a deployed model stores.

    Attributes:
        elements: Number of stored elements that can have faults.
        left_out: Kinds of other stored content to their number of elements.
        has_weights: True if some of the numbers are weights, which noise is added to.
    """

    elements: int
    left_out: Mapping[str, int]
    has_weights: bool


@lru_cache(maxsize=64)
def contents(path: Path) -> Contents:
    """Summarize the numbers that a deployed model stores."""
    model = onnx.load(path, load_external_data=False)
    inventory = Inventory.of(model)
    alike = {
        place.name: np.broadcast_to(
            np.zeros((), onnx.helper.tensor_dtype_to_np_dtype(place.element_type(model))), place.shape(model)
        )
        for place in inventory.places
    }
    elements = sum(array.size for array in alike.values())
    return Contents(elements, inventory.left_out, bool(weight_widths(alike, model.graph.node)))


def numbers_obstacle(case: Case) -> str:
    """`NO_NUMBERS` if a build stores no number that can have a fault, else empty."""
    return "" if contents(case.subject.build.model).elements else NO_NUMBERS


def coverage_rows(study: str, case: Case) -> Iterator[Row]:
    """The share of a build's stored elements that faults reach, unless that is all of them."""
    stored = contents(case.subject.build.model)
    total = stored.elements + sum(stored.left_out.values())
    if stored.left_out:
        kinds = ", ".join(f"{count:,} of {kind}" for kind, count in stored.left_out.items())
        detail = f"{stored.elements:,} of {total:,} stored elements can have faults; left out: {kinds}"
        yield Row(study, "covered_numbers", "{}", stored.elements / total, "ratio", n=total, detail=detail)
