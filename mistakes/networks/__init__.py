"""Classifiers: built, trained, taken in from elsewhere, and what they make of images."""
