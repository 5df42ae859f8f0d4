"""poormanray: run work on many EC2 instances through AWS Systems Manager, without SSH."""

__version__ = "0.1.0"
