"""All drawing: charts, plots, heatmaps, and what the browser is told to draw. Nothing here runs a model."""
