"""Peak memory of one explanation in a process that does nothing else: `peak.py run MODEL X.npy` or `peak.py zennit TWIN.pt`.

Prints megabytes. `peak.py twin MODEL COMPOSITE START X.npy TWIN.pt` writes the torch twin and what it is given.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path


def peak() -> float:
    """Megabytes of this process at its highest. getrusage would count what the parent held when it started us."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


def run(model: str, x: str, threads: str) -> None:
    """A model, compiled or not, in onnxruntime."""
    import numpy as np
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = int(threads)
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    session.run(None, {session.get_inputs()[0].name: np.load(x)})


def twin(model: str, start: str, x: str, path: str) -> None:
    import numpy as np
    import onnx
    import peers
    import torch
    from twin import Twin, entry, one_hot_logit

    proto = onnx.load(model)
    made, given = Twin(proto, start, peers.Residual), torch.tensor(entry(proto, start, np.load(x)))
    with torch.no_grad():
        initial = torch.tensor(one_hot_logit(made(given).numpy()))
    torch.save((made, given, initial), path)


def zennit(path: str, composite: str, threads: str) -> None:
    import peers
    import torch

    torch.set_num_threads(int(threads))
    made, given, initial = torch.load(path, weights_only=False)
    peers.attributor(made, composite)(given, initial)


if __name__ == "__main__":
    {"run": run, "twin": twin, "zennit": zennit}[sys.argv[1]](*sys.argv[2:])
    print(f"{peak():.1f}")
