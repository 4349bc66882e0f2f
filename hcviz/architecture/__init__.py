"""Which axes every tensor has, and how wide each is."""
