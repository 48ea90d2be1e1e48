"""Benchmarks of the training step (`python -m benchmarks`), of single parts and of DDP."""
