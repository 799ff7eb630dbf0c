"""What does a scenario file say? YAML to a checked, frozen `Scenario`."""
