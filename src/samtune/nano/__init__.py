"""The small SAM 2 that ships with samtune: architecture, pre-training, weights."""
