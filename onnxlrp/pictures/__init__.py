"""Pictures of relevance for what the input is: images, series, tables, volumes; several of them on a sheet.

style.py    Style: the options, checked                    colors.py  values to colours, and what full colour is
kinds.py    which kind a shape is; relevance to pictures   images.py  images and slices, alone or over the input
plots.py    curves and bars                                sheet.py   captioned grids
"""

from .kinds import kind_of, pictures
from .sheet import sheet
from .style import Style

__all__ = ["Style", "kind_of", "pictures", "sheet"]
