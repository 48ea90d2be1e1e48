"""Runs: how one is put together from YAML, its folder, its identity, and how it is read back."""
