"""Measures of the quality of a network or of its samples."""
