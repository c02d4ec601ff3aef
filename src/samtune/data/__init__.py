"""Annotations in, checked dataset out: readers, doctor, splits, mask files and the table. Knows no torch."""
