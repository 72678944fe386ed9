"""matplotlib is loaded the way hvlite does it, before a test imports it: nothing is written into the home."""

from __future__ import annotations

from hvlite.charts.plotting_library import font_file

font_file()
