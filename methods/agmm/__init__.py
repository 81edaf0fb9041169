"""AGMM: sparsely annotated semantic segmentation with adaptive Gaussian mixtures (Wu et al., CVPR 2023)."""
