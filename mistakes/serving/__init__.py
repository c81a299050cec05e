"""The guard as others use it."""
