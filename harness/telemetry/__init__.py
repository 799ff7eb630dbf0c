"""What is read of the server, the devices and the host while a run goes on."""
