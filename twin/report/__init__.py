"""Reports: figures, tables and one page that say what an experiment, or a run, came to."""
