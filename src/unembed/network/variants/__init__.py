"""Other bodies than the default one."""
