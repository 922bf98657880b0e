"""zennit, captum and onnx2torch + zennit as functions of no argument that give the relevance, set up as well as they can be.

Hooks are registered, weights loaded and BatchNorms merged before the clock runs.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn
from twin import Cat, Twin, entry, freeze, near

__all__ = ["PEERS", "Task", "Unavailable", "attributor"]

Explain = Callable[[], np.ndarray]


class Unavailable(Exception):
    """A peer has nothing for what is asked."""


@dataclass(frozen=True)
class Task:
    """What is explained: relevance `initial` of the output y = model(x), down to the tensor `start`."""

    path: str
    composite: str
    start: str
    x: np.ndarray
    y: np.ndarray
    initial: np.ndarray


class Absent(types.ModuleType):
    """A package of which every name is an empty class."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class AbsentFinder:
    """zennit and onnx2torch import torchvision for its models, of which nothing is used here.

    There are platforms with a torch and no torchvision that fits it: there, its names are made up.
    """

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.split(".")[0] == "torchvision" else None

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return Absent(spec.name)  # a package, as the finder says, with modules of its own

    def exec_module(self, module: types.ModuleType) -> None:
        pass


if importlib.util.find_spec("torchvision") is None:
    sys.meta_path.append(AbsentFinder())


def split(composite: str) -> tuple[str, dict[str, Any]]:
    """`epsilon_gamma_box(low=-5, high=5)` to its name and its arguments."""
    tree = ast.parse(composite, mode="eval").body
    if not isinstance(tree, ast.Call):
        return composite, {}
    return ast.unparse(tree.func), {str(k.arg): ast.literal_eval(k.value) for k in tree.keywords}


# zennit ------------------------------------------------------------------------------------------------------------


def zennit_composite(text: str) -> Any:
    """The composite of zennit that means the same."""
    from zennit import canonizers, composites, rules, types

    name, arguments = split(text)
    merge = {"canonizers": [canonizers.SequentialMergeBatchNorm()]}
    ready = {
        "epsilon_plus": composites.EpsilonPlus,
        "epsilon_plus_flat": composites.EpsilonPlusFlat,
        "epsilon_alpha2_beta1": composites.EpsilonAlpha2Beta1,
        "epsilon_alpha2_beta1_flat": composites.EpsilonAlpha2Beta1Flat,
        "epsilon_gamma_box": composites.EpsilonGammaBox,
    }
    single = {
        "epsilon": rules.Epsilon,
        "attn_lrp": rules.Epsilon,  # it has nothing for attention: these layers take their gradient
        "zplus": rules.ZPlus,
        "gamma": rules.Gamma,
        "alpha2_beta1": rules.AlphaBeta,
        "w_square": rules.WSquare,
        "flat": rules.Flat,
    }
    if name in ready:
        return ready[name](**arguments, **merge)
    if name in single:
        everywhere = [(types.Linear, single[name](**arguments))]
        return composites.LayerMapComposite(composites.layer_map_base() + everywhere, **merge)
    raise Unavailable(f"no preset {name}")


class Residual(nn.Module):
    """x + y as zennit asks for it."""

    def __init__(self) -> None:
        from zennit.layer import Sum

        super().__init__()
        self.sum = Sum(dim=-1)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.sum(torch.stack([x, y], dim=-1))


def attributor(model: nn.Module, composite: str) -> Any:
    """zennit's attributor with its hooks registered for good: attributor(x, initial) gives output and relevance."""
    from zennit.attribution import Gradient

    made = Gradient(model, zennit_composite(composite))
    made.__enter__()
    return made


def check(model: nn.Module, x: torch.Tensor, y: np.ndarray) -> None:
    with torch.no_grad():
        off = near(model(x).numpy(), y)
    assert off <= 1e-4, f"the torch model's output differs by {off:.1e}"


def explained_by_zennit(model: nn.Module, x: torch.Tensor, task: Task) -> Explain:
    check(model, x, task.y)
    run, initial = attributor(model, task.composite), torch.tensor(task.initial)
    return lambda: run(x, initial)[1].detach().numpy()


def zennit(task: Task) -> Explain:
    """zennit on the torch twin."""
    zennit_composite(task.composite)
    model = onnx.load(task.path)
    twin = Twin(model, task.start, Residual)
    return explained_by_zennit(twin, torch.tensor(entry(model, task.start, task.x)), task)


def onnx2torch(task: Task) -> Explain:
    """zennit on what onnx2torch makes of the file."""
    from onnx2torch import convert

    zennit_composite(task.composite)
    if task.x.dtype.kind != "f":
        raise Unavailable("the converted model starts at token ids, which have no gradient")
    return explained_by_zennit(freeze(convert(task.path).eval()), torch.tensor(task.x), task)


# captum ------------------------------------------------------------------------------------------------------------


def captum_rules(text: str) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Makers of the rule of convolutions and of dense layers that come nearest."""
    from captum.attr._utils import lrp_rules as rules

    def epsilon() -> Any:
        return rules.EpsilonRule(1e-6)

    name, arguments = split(text)
    known = {
        "lrp_zero": (rules.EpsilonRule, rules.EpsilonRule),
        "epsilon": (epsilon, epsilon),
        "attn_lrp": (epsilon, epsilon),
        "epsilon_plus": (rules.Alpha1_Beta0_Rule, epsilon),
        "zplus": (rules.Alpha1_Beta0_Rule, rules.Alpha1_Beta0_Rule),
        "gamma": (rules.GammaRule, rules.GammaRule),
    }
    if name not in known or arguments:
        raise Unavailable(f"no rules for {name}")
    return known[name]


def captum(task: Task) -> Explain:
    """captum's LRP on the torch twin, BatchNorms merged by zennit's canonizer for good."""
    from captum.attr import LRP
    from captum.attr._utils.custom_modules import Addition_Module
    from captum.attr._utils.lrp_rules import EpsilonRule, IdentityRule
    from zennit.canonizers import SequentialMergeBatchNorm

    convolution, dense = captum_rules(task.composite)
    if task.y.ndim != 2:
        raise Unavailable("starts from one value per sample")
    model = onnx.load(task.path)
    twin = Twin(model, task.start, Addition_Module)
    x, best = torch.tensor(entry(model, task.start, task.x), requires_grad=True), torch.tensor(task.y.argmax(1))
    check(twin, x, task.y)
    SequentialMergeBatchNorm().apply(twin)
    freeze(twin)
    kinds: tuple[tuple[Any, Callable[[], Any]], ...] = (
        ((nn.Conv2d, nn.ConvTranspose2d), convolution),
        (nn.Linear, dense),
        (nn.ReLU6, IdentityRule),  # would take what another layer sends to the same tensor for its own, as BatchNorm's
        (Cat, EpsilonRule),
    )

    def explain() -> np.ndarray:
        for module in twin.children():  # captum takes the rules away after each call
            for kind, make in kinds:
                if isinstance(module, kind):
                    module.rule = make()
        return LRP(twin).attribute(x, target=best).detach().numpy()

    return explain


PEERS: dict[str, Callable[[Task], Explain]] = {"zennit": zennit, "captum": captum, "onnx2torch": onnx2torch}
