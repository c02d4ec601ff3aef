"""How fast this machine tunes: what it can compute, what a step takes, how long a run will be.

Everything is measured on the real thing: a dataset on disk, the embedding cache, `training.loop`. `benchmarks/peers.py`
stands on the same parts and runs other people's ways of doing the same work beside them.
"""
