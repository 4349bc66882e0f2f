"""A run on disk, read lazily."""
