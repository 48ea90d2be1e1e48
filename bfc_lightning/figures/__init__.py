"""Figures of a run, drawn from its logged metrics."""
