"""Converts torch checkpoints to ANCHORs and exports them again.

This package alone knows torch's names: `names` has the table.
"""

from .export import export
from .program import convert
from .text import empty_text

__all__ = ["convert", "empty_text", "export"]
