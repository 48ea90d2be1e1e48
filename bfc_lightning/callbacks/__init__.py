"""Lightning callbacks and loggers: what a run writes, shows, saves, and how it stops."""
