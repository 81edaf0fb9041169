"""Pseudo panoptic labels from a learned distance between pixels and anchor queries. Our reading of EPLD (ECCV 2024)."""
