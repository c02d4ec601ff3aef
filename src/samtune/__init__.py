"""samtune tunes Segment Anything 2 to a dataset and says honestly whether it helped. Start at `samtune.api`."""

__version__ = "0.1.0"
