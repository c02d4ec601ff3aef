"""Metrics, evaluation on fixed prompts, paired comparison, and the report made from their result files."""
