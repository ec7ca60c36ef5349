"""From a source to a prepared set: ``python -m data.prepare``."""
