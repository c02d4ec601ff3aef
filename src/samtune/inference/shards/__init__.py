"""Prediction over more images than fit one process: shards that any number of processes claim, one at a time.

Processes need no connection to one another, only the same output folder. `job` plans it, `claims` shares it out, `work`
does a shard, `merge` reads the results.
"""
