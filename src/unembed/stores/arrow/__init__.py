"""Vectors in Arrow tables: parquet and Arrow IPC."""
