"""The pretrained networks that metrics name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from medgen_jax.evaluation.settings import Settings

if TYPE_CHECKING:
    from medgen_jax.pretrained import Pretrained

#: Name in the table of metrics -> network.
Networks = Callable[[str], "Pretrained"]


def from_weights(settings: Settings) -> Networks:
    """Networks with the weights in the settings' folder, read when asked for.

    The returned function raises UserError when a weight file is missing or damaged.
    """

    def load(name: str) -> Pretrained:
        from medgen_jax import pretrained

        if name == "inception":
            return pretrained.inception(settings.weights)
        return pretrained.lpips(settings.lpips_net, settings.weights)

    return load
