"""Loading and saving models: names, files, the hub, the official layout."""
