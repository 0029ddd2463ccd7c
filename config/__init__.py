"""Settings models, the loader and reference data."""
