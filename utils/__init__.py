"""What every script needs, one topic per file. Imports nothing else of this project."""
