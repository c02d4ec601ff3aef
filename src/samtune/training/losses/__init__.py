"""The loss of a tuning step and the losses of single masks."""
