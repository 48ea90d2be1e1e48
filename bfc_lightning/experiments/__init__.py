"""Many runs; reading order: spec, reading, execute, record, pool, tables, plots."""
