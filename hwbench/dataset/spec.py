"""How a run specification describes data: where they are, which array is what, how images become numbers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from hwbench.errors import DataError
from hwbench.npy import Array

Size = Annotated[int, Field(gt=0)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Preprocess(BaseModel):
    """What is done to an image, in this order, before the model sees it.

    Resize, crop and colour are for image folders; scale, mean and std for any data (scaled first: mean and std are in
    scaled units, one per channel). Image folders are laid out as ``layout`` says; arrays must be so already.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    resize: Size | tuple[Size, Size] | None = Field(None, description="shorter side, or [height, width], in pixels")
    crop: Size | tuple[Size, Size] | None = Field(None, description="central square, or [height, width], in pixels")
    color: Literal["rgb", "bgr", "gray"] = "rgb"
    scale: Positive | None = Field(None, description="factor on the stored values; 1/255 for images if not given")
    mean: list[Number] | None = Field(None, min_length=1, description="subtracted, one per channel")
    std: list[Positive] | None = Field(None, min_length=1, description="divided by, one per channel")
    layout: Literal["nchw", "nhwc"] = Field("nchw", description="where the channels stand in the model's input")

    def image_only(self) -> list[str]:
        """The keys given that make sense for image files alone."""
        return sorted(self.model_fields_set & {"resize", "crop", "color"})

    def normalise(self, values: Array, channels_last: bool, scale: float | None, origin: str) -> Array:
        """Scale, then subtract the mean and divide by the standard deviation.

        Args:
            values: ``[n, ...]`` with channels in axis 1, or last.
            channels_last: Which of the two.
            scale: The factor; None for none.
            origin: What to call the data in messages.

        Returns:
            float32 of the same shape; ``values`` as they are where there is nothing to do.

        Raises:
            DataError: The number of channels differs from that of mean or std.
        """
        if (scale is None or scale == 1) and self.mean is None and self.std is None:
            return values
        result: Array = values.astype(np.float32)
        if scale is not None:
            result *= np.float32(scale)
        if self.mean is not None:
            result -= self._per_channel(self.mean, "mean", values, channels_last, origin)
        if self.std is not None:
            result /= self._per_channel(self.std, "std", values, channels_last, origin)
        return result

    @staticmethod
    def _per_channel(numbers: list[float], key: str, values: Array, channels_last: bool, origin: str) -> Array:
        if len(numbers) == 1:
            return np.array(numbers, np.float32)
        axis = values.ndim - 1 if channels_last else 1
        channels = values.shape[axis] if 0 < axis < values.ndim else 1
        if len(numbers) != channels:
            raise DataError(
                f"{origin}: preprocess.{key} has {len(numbers)} numbers for {channels} channels (axis {axis} of "
                f"{list(values.shape)}); give one per channel, or correct preprocess.layout"
            )
        return np.array(numbers, np.float32).reshape([channels if at == axis else 1 for at in range(values.ndim)])


class DataSpec(BaseModel):
    """Where data come from. They are always evaluated in full."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = Field(
        description=".npz file, image folder (one folder per class), .csv or .parquet file, or module:callable"
    )
    label: str | None = Field(
        None, description="array or column of the labels; else 'y', 'label', 'labels' or 'target'"
    )
    preprocess: Preprocess | None = None
    inputs: dict[str, str] = Field(
        default_factory=dict, description="model input to the array or column it is fed from"
    )
    classes: dict[str, Annotated[int, Field(ge=0)]] | str | None = Field(
        None,
        description="class number of each image folder, or a labels file (a name per line, or JSON); default: all "
        "classes are the folders in alphabetical order",
    )
    constants: dict[str, Any] = Field(
        default_factory=dict,
        description="values of the model inputs that are the same for all samples (number or list)",
    )


LABEL_NAMES = ("y", "label", "labels", "target")
