"""Measures of what a learner has learned: pure functions of samples in float64."""
