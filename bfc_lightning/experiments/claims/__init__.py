"""Sentences about hierarchical learning, each with the runs that could show it to be wrong."""
