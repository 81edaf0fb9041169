"""The interface every method implements, and the panoptic network all of them share.

Importing any part of this package first makes mmdet importable without compiled ops (`mmdet_compat`); nothing heavy is
imported here.
"""

from methods.base import mmdet_compat

mmdet_compat.activate()
