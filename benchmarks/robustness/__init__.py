"""What survives damage: fuzzers of everything that is read, killed runs, and vectors that were made worse."""
