"""ONNX exports that annotation tools and browsers load unchanged, compared with the model before they are kept."""
