"""Checkpoints of the torch world in, and back out. All knowledge of torch names lives here."""

from .export import export
from .program import convert
from .text import empty_text

__all__ = ["convert", "empty_text", "export"]
