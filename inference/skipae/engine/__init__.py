"""Checkpoints on a device: sessions of ONNX Runtime, the devices that they run on, and exact tiling."""
