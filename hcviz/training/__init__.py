"""Train for a while, keep snapshots."""
