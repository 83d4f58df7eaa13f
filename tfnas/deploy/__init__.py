"""Networks as ONNX graphs and files."""
