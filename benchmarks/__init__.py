"""The speed of each part, as one table: ``python -m benchmarks`` (README.md says what each row means)."""
