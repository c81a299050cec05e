"""Adversarial inputs, of attackers who know the classifier or the detector too."""
