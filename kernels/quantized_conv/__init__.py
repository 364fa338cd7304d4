"""Convolutions on u8 codes with s8 weights: what they become, their arithmetic in plain torch, and their nodes for onnxruntime."""
