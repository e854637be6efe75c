"""Where vectors come from: files today, vector databases by entry point."""
