"""Shared by all tests."""

import methods.base  # noqa: F401 - makes mmdet and torchvision importable before a test module imports them itself
