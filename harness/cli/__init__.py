"""The command line: parsing, one module a command, and the only code that prints."""
