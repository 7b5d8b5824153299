"""Run checkpoints: devices, sessions of ONNX Runtime and exact tiling."""
