"""The evidence: hypotheses, detection, differences, mixtures, several runs."""
