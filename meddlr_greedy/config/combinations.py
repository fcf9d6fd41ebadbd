"""Which keys of ``MISC.GREEDY`` cannot be set together."""

from meddlr_greedy.config.schema import PREFIX, GreedyConfig, changed_keys
from meddlr_greedy.errors import UserError

__all__ = ["check_combinable"]


def check_combinable(config: GreedyConfig) -> None:
    """Refuses keys that the schema does not allow together.

    Raises:
        UserError: names both.
    """
    changed = {key.name: (key, value) for key, value in changed_keys(config)}
    for key, value in changed.values():
        for other in key.rule.not_with:
            if other in changed:
                raise UserError(
                    f"{key.full_name}: found {value!r}, which {PREFIX}{other} {changed[other][1]!r} does not allow;"
                    " leave one of them out"
                )
