"""python -m profilers.card

The calibration card of a latency table: whole random nets, none of those it was calibrated on, are
measured and compared with what the table says. The card is printed and written into the table's
header; `python -m tfnas.table page FILE` draws it.
"""

from __future__ import annotations

import logging
import shlex
from pathlib import Path

from profilers.configured import configured_device, configured_space
from profilers.tables.cards import make_card
from profilers.tables.own import check_own, find_table, table_path
from tfnas.app.main import Work, main
from tfnas.app.schemas import CardConfig
from tfnas.latency.table import LatencyTable
from tfnas.process.exits import DONE

log = logging.getLogger(__name__)


def prepare(config: CardConfig) -> Work:
    """Check the input; raises ValueError or LookupError if it is unusable."""
    profiler = configured_device(config)
    path = Path(config.table) if config.table else find_table(profiler.device)
    table = LatencyTable.load(path or table_path(profiler.device))
    path = Path(table.source)
    check_own(table.device, profiler.device, path)
    space = configured_space(config.space, config.data).build(table.device.quantum)
    table = table.for_space(space)

    def work() -> int:
        card = make_card(
            profiler,
            table,
            space,
            nets=config.nets,
            precision=config.net_precision,
            max_minutes=config.max_minutes,
            seed=config.seed,
        )
        log.info("%s", card)
        # What another process may have measured into the file meanwhile stays.
        now = LatencyTable.load(path).for_space(space)
        if now.calibration == table.calibration:
            now.with_fit(space, card=card.to_json()).save(path)
            log.info("written into %s; to see it:", path)
            log.info("  python -m tfnas.table page %s", shlex.quote(str(path)))
        else:
            log.warning("warning: %s was calibrated anew meanwhile: the card isn't kept", path)
        return DONE

    return work


if __name__ == "__main__":
    main(CardConfig, "card", prepare)
