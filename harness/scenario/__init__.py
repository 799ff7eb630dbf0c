"""Scenario files: from YAML to checked, frozen models."""
