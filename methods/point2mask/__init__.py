"""Point2Mask: point-supervised panoptic segmentation by optimal transport (Li et al., ICCV 2023)."""
