"""From a folder of runs to a table, fits, figures and one report; imports no torch and no hydra."""
