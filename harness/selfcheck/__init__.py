"""How exact this client is on this machine, held against a reference server."""
