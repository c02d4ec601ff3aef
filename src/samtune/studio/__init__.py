"""The studio: a page on this machine in which one person annotates with a model, and tunes it on what was accepted."""
