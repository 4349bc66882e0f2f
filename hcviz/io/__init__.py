"""Read and write text, models and folders; a failure loses nothing."""
