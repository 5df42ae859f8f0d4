"""A real bash, and a folder for its ledgers: no cloud, no agent."""

from tests.support.machine import machine, small_disk

__all__ = ["machine", "small_disk"]
