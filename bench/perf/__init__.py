"""Our attacks beside public libraries', our training steps beside the passes they need; jobs at once; memory."""

from __future__ import annotations

from typing import Literal, get_args

ComparedAttack = Literal["fgsm", "bim", "pgd", "mim", "pgd_l2", "apgd_ce", "apgd_dlr", "cw", "ead"]
"""The plug-in of an attack that libraries have too."""
ATTACKS: tuple[ComparedAttack, ...] = get_args(ComparedAttack)
