"""Makers of this repository's pages, tables and pictures, outside the wheel; run as python -m reports.cli_reference."""
