"""Runs under fire: killed at any moment, on a disk that refuses; `python -m tests.fire` (`make resume-fire`)."""
