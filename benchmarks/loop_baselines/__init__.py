"""Every learner's mathematics the plain way: the yardsticks of speed.py.

One network object per agent and per twin, a Python loop over agents, an optimiser per module, a backward
pass and a step per loss, targets followed parameter by parameter. The history encoder runs again for each
loss that reads it. Losses and draws are those of `offline_marl.algorithms` at their default settings.
Independent learners take turns, as published code has them; the losses of one kind that share encoders
(mixed values, centralised critics) are one loss of the team, so that each encoder runs once for them.
"""

from .base import Loop, Setup
from .bc import LoopBC
from .cql import LoopCQL
from .iql import LoopIQL
from .ma_iql import LoopMAIQL
from .ma_ppo import LoopMAPPO
from .omar import LoopOMAR
from .omiga import LoopOMIGA
from .td3_bc import LoopTD3BC

LOOPS: dict[str, type[Loop]] = {
    "bc": LoopBC,
    "iql": LoopIQL,
    "ma-iql": LoopMAIQL,
    "omiga": LoopOMIGA,
    "td3-bc": LoopTD3BC,
    "cql": LoopCQL,
    "omar": LoopOMAR,
    "ma-ppo": LoopMAPPO,
}

__all__ = ["LOOPS", "Loop", "Setup"]
