"""What a person looks at after a run: maps, plots, tables. Knows no model.

    files.py     atomic writes and plain JSON values
    sphere.py    great circles on paper: paths, the cut at the antimeridian, the box that holds all points
    outlines.py  reads border lines from GeoJSON
    maps.py      the HTML map (map.html, map.css, map.js) and its PNG sister
    geojson.py   predictions for a GIS
    style.py     one look for all figures
    plots.py     learning curves, error CDF, scatter
    classes.py   confusion and reliability
    tables.py    Markdown and CSV

Nothing here imports matplotlib, pandas or PIL before a figure is drawn.
"""

from geohf.report.classes import (
    confusion_shares,
    plot_confusion,
    plot_reliability,
    reliability_bins,
)
from geohf.report.files import atomic_write, plain
from geohf.report.geojson import write_geojson
from geohf.report.maps import error_map_png, write_map
from geohf.report.outlines import read_outlines
from geohf.report.plots import plot_error_cdf, plot_learning_curves, plot_scatter
from geohf.report.tables import format_number, markdown_table, write_csv

__all__ = [
    "atomic_write",
    "confusion_shares",
    "error_map_png",
    "format_number",
    "markdown_table",
    "plain",
    "plot_confusion",
    "plot_error_cdf",
    "plot_learning_curves",
    "plot_reliability",
    "plot_scatter",
    "read_outlines",
    "reliability_bins",
    "write_csv",
    "write_geojson",
    "write_map",
]
