"""One learner at many settings: points, runs, table and picture."""
