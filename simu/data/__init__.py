"""Data sets as `Splits` (tofu, lume, mini), their way into batches (batching), and a digest of what rows say."""

from simu.data.rows import digest

__all__ = ["digest"]
