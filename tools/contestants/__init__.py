"""What tools/benchmark.py compares: a module a comparison, a function a measurement."""
