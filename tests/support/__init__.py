"""What the tests are built on: the command line, servers, journals, and processes killed at a chosen point."""
