"""onnxlrp: explanations (Layer-wise Relevance Propagation) of any ONNX model, as ONNX models."""

from . import presets
from .compile import compile, inspect
from .composites import *  # noqa: F403
from .errors import *  # noqa: F403
from .graph import save
from .node_rules import *  # noqa: F403
from .rules import *  # noqa: F403
from .tensor import maximum, mean, minimum, relu, where
from .version import __version__

__all__ = ["__version__", "compile", "inspect", "maximum", "mean", "minimum", "presets", "relu", "save", "where"]
