"""What a compile writes and reads again: names, recipe, codes, statistics, publishing."""
