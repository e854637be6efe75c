"""Vectors in text: tables (.csv, .tsv) and JSON."""
