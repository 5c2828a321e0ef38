"""What Hydra discovers of pdx: a sweeper and a launcher. Imports nothing heavy."""
