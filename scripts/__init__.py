"""How results are made: shell scripts, their configurations, tables and pictures."""
