"""python -m tfnas.search target_ms=8

Finds the network that takes the milliseconds asked for: profiles this machine if it has no table
yet, searches, derives, exports, and measures the exported net in a fresh process. What is checked
first stands in `tfnas.prepare`, what is done then in `tfnas.pipeline`.
"""

from __future__ import annotations

from tfnas import config
from tfnas.config import SearchConfig


def prepare(cfg: SearchConfig) -> config.Work:
    """Imports torch, which `--help` and an error in the command line can do without."""
    from tfnas.distributed import join
    from tfnas.folder import finished
    from tfnas.pipeline import run, tell
    from tfnas.prepare import prepared
    from tfnas.searching import follow

    ranks = join()
    if ranks.rank:  # rank 0 checks, and says what is wrong
        return lambda: follow(cfg, ranks)
    out = config.output_dir()
    if cfg.resume is not None and (result := finished(out, cfg)) is not None:
        return lambda: tell(result, out, cfg)
    checked = prepared(cfg, out, ranks)
    return lambda: run(checked)


if __name__ == "__main__":
    config.main(SearchConfig, "search", prepare)
