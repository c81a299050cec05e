"""The pipeline: one script a stage, run as ``python -m stages.NAME`` by DVC; `ls stages` is its
table of contents.
"""
