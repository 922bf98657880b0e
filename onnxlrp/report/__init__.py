"""One page for one explanation: a self-contained HTML file, `onnxlrp report MODEL INPUT -o report.html`.

    explainer = Explainer("model.onnx", layers=["conv4"], checks=True)
    page = render(explainer, explainer(x), title="model.onnx")
    onnxlrp.text.save_html("report.html", page)

maps: relevance in the form of the input. charts: bars and numbers. page: the sections and how they are put together.
faithful: a score for each composite. command: the command line's options.
"""

from .faithful import judge
from .maps import View
from .page import Entry, chosen_layers, render

__all__ = ["Entry", "View", "chosen_layers", "judge", "render"]
