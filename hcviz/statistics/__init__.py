"""Numbers from tidy tables, without torch."""
