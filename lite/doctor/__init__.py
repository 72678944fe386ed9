"""`hvlite doctor`: one small file for each thing that is examined. None imports torch while it is loaded."""
