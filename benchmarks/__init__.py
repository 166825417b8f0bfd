"""What this package is measured against, and how: ``make bench``, or ``python -m benchmarks --help``."""
