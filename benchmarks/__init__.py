"""Figures against named baselines, a folder for each question; README.md has the latest."""
