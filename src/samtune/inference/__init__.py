"""Prompts in, masks out: the predictor and automatic masks."""
