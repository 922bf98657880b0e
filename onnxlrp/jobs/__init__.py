"""Explain a whole data set, so that nothing is lost.

everything.py  explain_all: the whole of it             begin.py    what is fixed: model, batch, parts
worker.py      reads ahead, explains, writes behind     stores.py   Zarr, Parquet, pictures
manifest.py    what is done, and the lock               finish.py   progress, and the end
cluster.py     the same parts on Ray Data               command.py  `onnxlrp run`
"""

from .everything import explain_all
from .finish import Summary

__all__ = ["Summary", "explain_all"]
