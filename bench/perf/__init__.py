"""Our attacks beside public libraries', our training steps beside the passes they need; jobs at once; memory."""

from __future__ import annotations

from typing import Literal, get_args

ComparedAttack = Literal[
    "fgsm", "bim", "pgd", "mim", "pgd_l2", "apgd_ce", "apgd_dlr", "cw", "ead", "apgd_t", "fab_t", "square", "autoattack"
]
"""The plug-in of an attack that libraries have too."""
SLOW: tuple[ComparedAttack, ...] = ("apgd_t", "fab_t", "square", "autoattack")
"""Those that are run only where they are asked for."""
ATTACKS: tuple[ComparedAttack, ...] = get_args(ComparedAttack)
