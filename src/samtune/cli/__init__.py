"""The command line."""

from samtune.cli.app import main

__all__ = ["main"]
