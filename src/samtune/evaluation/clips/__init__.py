"""Measuring how well a model follows objects through annotated clips: J, F and J&F."""
