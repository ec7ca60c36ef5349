"""What every script needs, one topic a file. Imports nothing else of this project."""
