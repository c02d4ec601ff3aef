"""From annotations to a dataset: masks, splits, the table."""
