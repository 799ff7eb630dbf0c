"""The simulated NPU engine, in virtual and in real time."""
