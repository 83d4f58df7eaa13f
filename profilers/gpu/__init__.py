"""NVIDIA GPUs by TensorRT, TensorRT-RTX or torch."""
