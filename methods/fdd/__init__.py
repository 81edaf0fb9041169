"""FDD: pseudo labels from instance queries made of labelled pixels (Li, Fan et al., AAAI 2024)."""
