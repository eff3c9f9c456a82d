"""`python -m actsearch`: the same as the command `actsearch`."""

from actsearch.command.main import command

command()
