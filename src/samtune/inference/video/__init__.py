"""Clips: their frames, prompts on them, tracking with a memory that stays small, results as files."""
