"""How one tensor grows, then a model, and the twin that guards it."""
