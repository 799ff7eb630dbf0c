"""Triton kernels where there is no Triton for the device: they do not launch.

vLLM's stand-in for an absent Triton refuses launches; here a kernel's launcher does nothing instead.
"""

import importlib.machinery
import sys


class Kernel:
    """A Triton kernel: `kernel[grid](...)` launches nothing, `kernel(...)` is the plain function."""

    def __init__(self, function):
        self.function = function

    def __getitem__(self, grid):
        return lambda *arguments, **options: None

    def __call__(self, *arguments, **options):
        return self.function(*arguments, **options)


def jit(function=None, **options):
    """`@triton.jit`, with and without arguments."""
    return Kernel if function is None else Kernel(function)


class HollowTriton:
    """Puts `jit` in place once `vllm.triton_utils` is loaded."""

    def find_spec(self, name, path, target=None):
        if name != "vllm.triton_utils":
            return None
        sys.meta_path.remove(self)
        found = importlib.machinery.PathFinder.find_spec(name, path, target)
        load = found.loader.exec_module

        def loaded(module):
            load(module)
            module.triton.jit = jit

        found.loader.exec_module = loaded
        return found


sys.meta_path.insert(0, HollowTriton())
