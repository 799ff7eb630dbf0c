"""The files of a result: tables, schemas and readers."""
