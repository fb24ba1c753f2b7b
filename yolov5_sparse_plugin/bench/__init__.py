"""Latency of ONNX models in the CPU engines that people deploy with."""
