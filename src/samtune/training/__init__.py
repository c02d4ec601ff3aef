"""The loop and what it stands on: losses, optimizer, state, events, and the recipe of the small model."""
