"""What can go wrong, one class per kind of cause. Every message names the node, the operator, the rule and the remedy."""

__all__ = ["CompositeError", "Error", "InputError", "InvalidModel", "RuleMismatch", "UnsupportedOp"]


class Error(Exception):
    """Base of everything onnxlrp raises on purpose; its text is one line for the user."""


class InvalidModel(Error):
    """The file is not a model that can be read: truncated, cyclic, of an unknown opset, ..."""


class UnsupportedOp(Error):
    """An operator on the path of relevance has no reading; the message gives the composite line that gets past it."""


class RuleMismatch(Error):
    """A rule was assigned to a node that it cannot explain."""


class CompositeError(Error, ValueError):
    """A composite, a rule parameter or a compile option is wrong."""


class InputError(Error):
    """The data given to an explanation does not fit the model."""
