"""Test support: the command line, servers, journals, and processes killed at a chosen point."""
