"""What a trained run makes of images, written for everyone else: COCO panoptic, COCO instances, VOC-style PNG."""
