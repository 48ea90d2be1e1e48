"""Speed: `bfc fit` beside loops that do the same work, and beside what can't be beaten."""
