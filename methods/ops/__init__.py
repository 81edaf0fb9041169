"""Kernels that two methods or more use: geodesic distances, colour affinity, edge costs, point rasterising, assignment.

Pure functions on tensors: no input or output, no configuration, no knowledge of a method. Importing them compiles nothing.
"""
