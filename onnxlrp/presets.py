"""Ready-made composites by name: `presets.epsilon_plus_flat()`, `presets.parse("epsilon_gamma_box(low=-3, high=3)")`."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Callable
from typing import Any

from .composites import Composite
from .errors import CompositeError
from .node_rules import Average, BetaSmooth, DeconvNet, Gradient, GuidedBackprop, SignalTakesAll, Stop
from .rules import AlphaBeta, Epsilon, Flat, Gamma, GeneralizedGamma, Rule, WSquare, ZBox, Zero, ZPlus
from .selectors import (
    EveryMap,
    FirstLayerMap,
    FirstLayerTypeMap,
    GlobalTypeMap,
    HalfTypeMap,
    LastLayerMap,
    WeightedRangeMap,
)

__all__ = ["PRESETS", "described", "parse"]

LISTED = "`onnxlrp presets` lists them"

PRESETS: dict[str, Callable[..., Composite]] = {}


def _preset(make: Callable[..., Composite]) -> Callable[..., Composite]:
    PRESETS[make.__name__] = make
    globals().setdefault("__all__", []).append(make.__name__)
    return make


def _by_type(name: str, convolution: Rule, dense: Rule, first: dict[str, Rule] | None = None) -> Composite:
    maps = [GlobalTypeMap({"Convolution": convolution, "Dense": dense})]
    return Composite(Epsilon(), *maps, *([FirstLayerTypeMap(first)] if first else []), name=name)


@_preset
def epsilon_gamma_box(low: float = -1.0, high: float = 1.0, gamma: float = 0.25) -> Composite:
    """ZBox on first convolutions, GeneralizedGamma on convolutions, Epsilon on dense layers.   Montavon 2019, zennit.

    For images, convolutional networks; low and high: the range of the input's values.
    """
    name = f"epsilon_gamma_box(low={low}, high={high})"
    return _by_type(name, GeneralizedGamma(gamma), Epsilon(), {"Convolution": ZBox(low, high)})


@_preset
def epsilon_plus() -> Composite:
    """ZPlus on convolutions, Epsilon on dense layers.

    For images, convolutional networks; the default.
    """
    return _by_type("epsilon_plus", ZPlus(), Epsilon())


@_preset
def epsilon_alpha2_beta1() -> Composite:
    """AlphaBeta(2, 1) on convolutions, Epsilon on dense layers.

    For images, convolutional networks, to see what speaks against, too.
    """
    return _by_type("epsilon_alpha2_beta1", AlphaBeta(2, 1), Epsilon())


@_preset
def epsilon_plus_flat() -> Composite:
    """epsilon_plus with Flat on the first linear layers.

    For images, convolutional networks, whatever the range of the input.
    """
    return _by_type("epsilon_plus_flat", ZPlus(), Epsilon(), {"Linear": Flat()})


@_preset
def epsilon_alpha2_beta1_flat() -> Composite:
    """epsilon_alpha2_beta1 with Flat on the first linear layers.

    For as epsilon_alpha2_beta1, whatever the range of the input.
    """
    return _by_type("epsilon_alpha2_beta1_flat", AlphaBeta(2, 1), Epsilon(), {"Linear": Flat()})


def _single(name: str, doc: str, make: Callable[..., Rule], what: str) -> None:
    def preset(*args: Any, **kwargs: Any) -> Composite:
        return Composite(make(*args, **kwargs), name=name)

    preset.__name__, preset.__doc__ = name, f"{doc} on every weighted layer.\n\n    For {what}.\n    "
    globals()[name] = _preset(preset)


for _name, _doc, _rule, _for in (
    ("lrp_zero", "Zero", Zero, "comparison and theory; it divides by sums near 0"),
    ("epsilon", "Epsilon", Epsilon, "any network: tables, series, text"),
    ("gamma", "GeneralizedGamma", GeneralizedGamma, "images, any activation"),
    ("zplus", "ZPlus", ZPlus, "ReLU networks, to see only what speaks for the class"),
    ("alpha2_beta1", "AlphaBeta(2, 1)", AlphaBeta, "ReLU networks, to see what speaks against, too"),
    ("w_square", "WSquare", WSquare, "comparison only: relevance by weights, whatever the input"),
    ("flat", "Flat", Flat, "comparison only: relevance by what is connected, whatever the input"),
):
    _single(_name, _doc, _rule, _for)


@_preset
def attn_lrp() -> Composite:
    """Epsilon; softmax Taylor, products Uniform, norms frozen, which are every preset's defaults.   Achtibat et al. 2024.

    For transformers.
    """
    return Composite(Epsilon(), name="attn_lrp")


@_preset
def attn_lrp_vit() -> Composite:
    """attn_lrp with GeneralizedGamma in the patch convolution and the MLP layers.   Achtibat et al. 2024 (ViT).

    For vision transformers.
    """
    gamma = GeneralizedGamma()
    maps = (GlobalTypeMap({"Convolution": gamma, "Dense": gamma}), GlobalTypeMap({"Attention": Epsilon()}))
    return Composite(Epsilon(), *maps, LastLayerMap(Epsilon()), name="attn_lrp_vit")


@_preset
def cp_lrp() -> Composite:
    """attn_lrp with Stop at the softmax, so queries and keys get nothing, and gates get none.   Ali et al. 2022.

    For transformers, beside attn_lrp.
    """
    maps = GlobalTypeMap({"Softmax": Stop(), "Product": SignalTakesAll()})
    return Composite(Epsilon(), maps, name="cp_lrp")


@_preset
def innvestigate_a() -> Composite:
    """AlphaBeta(1, 0) on convolutions, Epsilon(0.1) on dense layers.   iNNvestigate LRPSequentialPresetA.

    For comparison with iNNvestigate; images, convolutional networks.
    """
    return _by_type("innvestigate_a", AlphaBeta(1, 0), Epsilon(0.1))


@_preset
def innvestigate_b() -> Composite:
    """AlphaBeta(2, 1) on convolutions, Epsilon(0.1) on dense layers.   iNNvestigate LRPSequentialPresetB.

    For comparison with iNNvestigate; images, convolutional networks.
    """
    return _by_type("innvestigate_b", AlphaBeta(2, 1), Epsilon(0.1))


@_preset
def innvestigate_a_flat() -> Composite:
    """innvestigate_a with Flat on the first linear layers.

    For comparison with iNNvestigate; images, convolutional networks.
    """
    return _by_type("innvestigate_a_flat", AlphaBeta(1, 0), Epsilon(0.1), {"Linear": Flat()})


@_preset
def innvestigate_b_flat() -> Composite:
    """innvestigate_b with Flat on the first linear layers.

    For comparison with iNNvestigate; images, convolutional networks.
    """
    return _by_type("innvestigate_b_flat", AlphaBeta(2, 1), Epsilon(0.1), {"Linear": Flat()})


@_preset
def tutorial_mlp() -> Composite:
    """ZBox(-1, 1), Gamma(0.1), Epsilon(0.1, relative, unsigned), then Zero, by weighted layer.   LRP tutorial (MLP).

    For comparison with the LRP tutorial; three dense layers, ReLU, inputs from -1 to 1.
    """
    return Composite(
        Zero(),
        FirstLayerMap(ZBox(-1, 1)),
        WeightedRangeMap(range(1, 2), Gamma(0.1)),
        WeightedRangeMap(range(2, 3), Epsilon(0.1, relative=True, signed=False)),
        name="tutorial_mlp",
    )


@_preset
def tutorial_vgg(low: float = -3.0, high: float = 3.0) -> Composite:
    """ZBox first, Gamma in the lower half, relative Epsilon in the upper, Zero above; pools averaged.   LRP tutorial (VGG).

    For comparison with the LRP tutorial; VGG, inputs from low to high.
    """
    lower, upper = Gamma(0.25), Epsilon(0.25, relative=True, signed=False)
    return Composite(
        Zero(),
        HalfTypeMap("lower", {"Convolution": lower, "MaxPooling": Average(lower), "AveragePooling": lower}),
        HalfTypeMap("upper", {"Convolution": upper, "MaxPooling": Average(upper), "AveragePooling": upper}),
        FirstLayerMap(ZBox(low, high)),
        name=f"tutorial_vgg(low={low}, high={high})",
    )


@_preset
def excitation_backprop() -> Composite:
    """ZPlus on linear layers, Epsilon on sums and averages, derivatives elsewhere.   Zhang et al. 2016, as in zennit.

    For comparison; images, ReLU networks.
    """
    maps = GlobalTypeMap({"Activation": Gradient(), "Normalization": Gradient(), "Resize": Gradient()})
    return Composite(ZPlus(), maps, name="excitation_backprop")


def _derivative(name: str, activation: Rule, **options: bool) -> Composite:
    # reductions, scales and ratios are in no group, and a derivative must leave out none
    maps = (EveryMap(Gradient()), GlobalTypeMap({"Relu": activation}))
    return Composite(Gradient(), *maps, name=name, derivative=True, **options)


@_preset
def gradient() -> Composite:
    """∂ logit / ∂ x (the initial relevance is 1 unless given).

    For comparison only: what changes the output, not what makes it up.
    """
    return _derivative("gradient", Gradient())


@_preset
def gradient_x_input() -> Composite:
    """x ⊙ ∂ logit / ∂ x.

    For comparison only; on a ReLU network the same as lrp_zero.
    """
    return _derivative("gradient_x_input", Gradient(), times_input=True)


@_preset
def deconvnet() -> Composite:
    """Gradient with R⁺ at each ReLU.   Zeiler & Fergus 2014.

    For comparison only; ReLU networks.
    """
    return _derivative("deconvnet", DeconvNet())


@_preset
def guided_backprop() -> Composite:
    """Gradient with R⁺ where x > 0 at each ReLU.   Springenberg et al. 2015.

    For comparison only; ReLU networks.
    """
    return _derivative("guided_backprop", GuidedBackprop())


@_preset
def beta_smooth(beta: float = 10.0) -> Composite:
    """Gradient with a softplus's derivative at each ReLU.   Dombrowski et al. 2019.

    For comparison only; ReLU networks.
    """
    return _derivative("beta_smooth", BetaSmooth(beta))


def described(name: str) -> tuple[str, str]:
    """(what a preset does, for what networks it is), from its docstring."""
    first, *rest = (line.strip() for line in (PRESETS[name].__doc__ or "").strip().splitlines())
    return first, next((line.removeprefix("For ").removesuffix(".") for line in rest if line.startswith("For ")), "")


def parse(text: str) -> Composite:
    """`epsilon_plus` or `epsilon_gamma_box(low=-3, high=3)` to a Composite. Raises CompositeError."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        call = tree if isinstance(tree, ast.Call) else None
        name = ast.unparse(call.func if call else tree)
        args = [ast.literal_eval(a) for a in call.args] if call else []
        kwargs = {k.arg or "": ast.literal_eval(k.value) for k in call.keywords} if call else {}
    except (SyntaxError, ValueError) as error:
        raise CompositeError(f"'{text}' is not a preset: write a name, or name(argument=value, ...); {LISTED}") from error
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, 1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise CompositeError(f"unknown preset '{name}'; {hint}{LISTED}")
    try:
        return PRESETS[name](*args, **kwargs)
    except TypeError as error:
        raise CompositeError(f"preset '{text}': {str(error).split('() ')[-1]}") from error
