"""What the tests of exported web pages share: where Node's packages are, and how a page is exported."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from click.testing import CliRunner

from onnxlrp.cli import cli

MODELS = Path(__file__).parents[1] / "models"
CNN, DIGIT = MODELS / "digits_cnn.onnx", MODELS / "digit.npy"
RULES = ["epsilon_plus_flat", "epsilon_gamma_box(low=0, high=1)", "lrp_zero"]
NODE = shutil.which("node")
MODULES = Path(os.environ.get("ONNXLRP_NODE_MODULES", "node_modules")).absolute()
WEB = MODULES / "onnxruntime-web"
NO_WEB = "there is no onnxruntime-web in ./node_modules or $ONNXLRP_NODE_MODULES"


def export(model: Path, folder: Path, *more: object, runtime: Path = WEB) -> str:
    """What `onnxlrp export web` prints. Raises what it raises."""
    arguments = ("export", "web", model, "-o", folder, "--runtime", runtime, *more)
    done = CliRunner().invoke(cli, [str(a) for a in arguments], standalone_mode=False, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output
