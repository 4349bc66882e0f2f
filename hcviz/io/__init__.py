"""Read and write models and folders; a failure loses nothing."""
