"""Inputs: fetched or of one's own, read, split, made out-of-distribution or corrupted."""
