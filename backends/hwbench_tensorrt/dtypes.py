"""TensorRT's names of the element types that inputs, outputs and refitted weights may have, in numpy's words."""

from __future__ import annotations

import tensorrt as trt

DTYPES = {
    trt.DataType.FLOAT: "float32",
    trt.DataType.HALF: "float16",
    trt.DataType.BF16: "bfloat16",
    trt.DataType.FP8: "float8_e4m3fn",
    trt.DataType.INT8: "int8",
    trt.DataType.INT32: "int32",
    trt.DataType.INT64: "int64",
    trt.DataType.UINT8: "uint8",
    trt.DataType.BOOL: "bool",
}
