"""Readings of the server, the devices and the host while a run goes on, and the machine's versions."""
