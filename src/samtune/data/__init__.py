"""Annotations in, checked dataset out: readers, splits, mask files and the table. Knows no torch."""
