"""The program that runs jobs on a target: standard library, numpy, onnx and one backend, nothing else."""
