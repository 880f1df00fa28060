"""What a person looks at after a run: maps, plots, tables. Knows no model.

    paths.py     great circles on paper: paths, the cut at the antimeridian, the box that holds all points
    maps.py      the HTML map, made of map.html, map.css and map_*.js
    map_png.py   the map as a PNG, for a model card
    geojson.py   predictions for a GIS
    style.py     one look for all figures
    plots.py     learning curves, error CDF, scatter, points that filters kept and dropped
    tiles.py     errors of image tiles, filmstrips
    uncertainty.py regions on maps, error of the surest answers
    strips.py    questions with their answers, right and wrong ones framed
    classes.py   confusion and reliability
    tables.py    Markdown and CSV
    answers.py   predictions as CSV, JSON Lines, GeoJSON or HTML

Nothing here imports matplotlib, pandas or PIL before a figure is drawn.
"""

from geohf.io import atomic_write, plain
from geohf.report.classes import plot_confusion, plot_confusion_counts, plot_reliability
from geohf.report.geojson import write_geojson, write_polygons
from geohf.report.map_png import error_map_png
from geohf.report.maps import write_map
from geohf.report.plots import plot_dropped, plot_error_cdf, plot_learning_curves, plot_scatter
from geohf.report.tables import format_number, markdown_table, write_csv
from geohf.report.tiles import plot_filmstrip, plot_occlusion, plot_tile_errors
from geohf.report.uncertainty import plot_regions, plot_risk_coverage, plot_uncertainty

__all__ = [
    "atomic_write",
    "error_map_png",
    "format_number",
    "markdown_table",
    "plain",
    "plot_confusion",
    "plot_confusion_counts",
    "plot_dropped",
    "plot_error_cdf",
    "plot_filmstrip",
    "plot_learning_curves",
    "plot_occlusion",
    "plot_regions",
    "plot_reliability",
    "plot_risk_coverage",
    "plot_scatter",
    "plot_tile_errors",
    "plot_uncertainty",
    "write_csv",
    "write_geojson",
    "write_map",
    "write_polygons",
]
