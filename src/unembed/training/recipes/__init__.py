"""The TOML file that fixes a run."""
