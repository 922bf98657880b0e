"""A static page that runs a compiled model in the visitor's browser."""

from .page import Page, write_page
from .runtime import find_runtime

__all__ = ["Page", "find_runtime", "write_page"]
