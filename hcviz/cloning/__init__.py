"""The verbs on models: clone, verify, declone, deepen, stream."""
