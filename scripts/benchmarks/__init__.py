"""What ``scripts/bench.py`` measures: one file for each group of contests, and how it is timed."""
