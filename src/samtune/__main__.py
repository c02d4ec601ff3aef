"""`python -m samtune`: the command line, for `torchrun -m samtune` and environments without scripts on the path."""

from samtune.cli import main

main()
