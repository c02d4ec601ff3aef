"""Image embeddings of a dataset: computed once, kept on disk, read ahead."""
