"""onnxlrp: explanations (Layer-wise Relevance Propagation) of any ONNX model, as ONNX models."""

# The names of these modules are the library's face; each lists its own in __all__, so that none is listed twice.
from . import composites, errors, node_rules, presets, rules, selectors, starts
from .compile import compile, inspect
from .composites import *  # noqa: F403
from .concepts import Concepts, IndexedFeatures, TopNFeatures
from .errors import *  # noqa: F403
from .explanation import Explanation
from .gradients import integrated_gradients, smoothgrad
from .graph import save
from .node_rules import *  # noqa: F403
from .rules import *  # noqa: F403
from .run import Explainer
from .selectors import *  # noqa: F403
from .tensor import maximum, mean, minimum, relu, where
from .version import __version__

__all__ = ["Explainer", "Explanation", "__version__", "compile", "inspect", "presets", "save"]
__all__ += ["integrated_gradients", "smoothgrad", "starts"]
__all__ += ["Concepts", "IndexedFeatures", "TopNFeatures", "maximum", "mean", "minimum", "relu", "where"]
__all__ += composites.__all__
__all__ += selectors.__all__
__all__ += errors.__all__
__all__ += rules.__all__
__all__ += node_rules.__all__
