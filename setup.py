"""Packages of a wheel: ours, and the folder scenarios/ as harness/scenario/shipped; the rest is in pyproject.toml."""

from setuptools import find_packages, setup

SHIPPED = "harness.scenario.shipped"

setup(
    packages=[*find_packages(include=["harness*", "kernels_bench*", "reports*"]), SHIPPED],
    package_dir={SHIPPED: "scenarios"},
)
