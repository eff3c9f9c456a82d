"""What a search leaves behind for people: the terminal, tables, sentences."""
