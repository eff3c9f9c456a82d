"""`python -m actsearch`: the same as the command `actsearch`."""

from actsearch.cli import main

main()
