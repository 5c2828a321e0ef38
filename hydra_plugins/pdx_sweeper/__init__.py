"""What Hydra discovers of pdx: a sweeper and a launcher. Imports nothing heavy."""


def register() -> None:
    """Tell Hydra of both: it lists directories, and an editable install hides ours from that."""
    from hydra.core.plugins import Plugins

    from hydra_plugins.pdx_sweeper.launcher import PdxLocal
    from hydra_plugins.pdx_sweeper.sweeper import PdxSweeper

    for plugin in (PdxSweeper, PdxLocal):
        Plugins.instance().register(plugin)
