"""PSPS: pseudo panoptic labels from a traversing distance (Fan, Zhang and Tan, ECCV 2022)."""
