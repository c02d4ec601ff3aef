"""Prompts as tensors, and prompts simulated from masks."""
