"""Lightning callbacks and loggers: what a run writes, shows and saves, and how it stops."""
