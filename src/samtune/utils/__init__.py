"""What every room may use: files, progress, worker processes. Knows nothing of images or models."""
