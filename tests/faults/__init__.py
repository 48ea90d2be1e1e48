"""Faults, tried and counted: kills at random moments, and mutated input."""
