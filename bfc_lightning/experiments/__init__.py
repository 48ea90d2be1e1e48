"""Experiments: many runs that belong together, spread over processes, and what they say."""
