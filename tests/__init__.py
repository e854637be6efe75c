"""Tests: `unit` by module, `integration` across modules and processes, `browser` on the page; `helpers` of all."""
