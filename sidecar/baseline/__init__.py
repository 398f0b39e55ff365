"""Baselines as files: recorded, shown, compared, exported and imported."""
