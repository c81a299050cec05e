"""Find out where a classifier fails: density of its features, hypothesis tests, calibrated
detection.

Reference: Shao, Song, Ermon, *Understanding Classifier Mistakes with Generative Models*, arXiv
2010.02364 (2020).
"""
