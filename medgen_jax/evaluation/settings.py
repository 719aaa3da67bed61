"""What the user of an evaluation chooses."""

from __future__ import annotations

from dataclasses import dataclass

from medgen_jax.core.errors import UserError

#: Names on the command line -> protocols of `medgen_jax.nn.inception_fid`.
RESIZES = {
    "torch-fidelity": "torch-fidelity",
    "clean": "clean-fid",
    "clean-fid": "clean-fid",
    "pytorch-fid": "pytorch-fid",
}
LPIPS_NETS = ("alex", "vgg")


@dataclass(frozen=True)
class Settings:
    """Options of an evaluation, named as the flags of the command.

    Attributes:
      metrics: entries of `medgen_jax.evaluation.measures.MEASURES`, or single numbers of theirs; empty for the default.
      resize: protocol by which images come to the feature network's 299 x 299 pixels.
      weights: folder of the pretrained networks; None for the usual places.
      lpips_net: backbone of LPIPS.
      k: neighbour that sets the radius in precision, recall, density and coverage.
      kid_subsets, kid_subset_size: of the published form of KID; size None for 1000 or half the smaller set.
      level: of all intervals.
      resamples: for intervals; None for as many as are affordable, 0 for no intervals from resampling.
      seed: of everything random.
      batch: images per device call, over all local devices.
      pictures: worst and best cases shown on the page, of each.
      names: whether file names may appear in the results.
      cache: whether features of folders are kept for the next evaluation.
      overwrite: whether results that are there may be replaced.
    """

    metrics: tuple[str, ...] = ()
    resize: str = "torch-fidelity"
    weights: str | None = None
    lpips_net: str = "alex"
    k: int = 5
    kid_subsets: int = 100
    kid_subset_size: int | None = None
    level: float = 0.95
    resamples: int | None = None
    seed: int = 0
    batch: int = 16
    pictures: int = 4
    names: bool = False
    cache: bool = True
    overwrite: bool = False

    @property
    def protocol(self) -> str:
        """The protocol that ``resize`` means."""
        return RESIZES[self.resize]

    def check(self) -> None:
        """Refuse values out of range.

        Raises:
          UserError: naming the flag.
        """
        rules = {
            "k": (self.k >= 1, "must be at least 1"),
            "kid_subsets": (self.kid_subsets >= 2, "must be at least 2"),
            "kid_subset_size": (self.kid_subset_size is None or self.kid_subset_size >= 2, "must be at least 2"),
            "level": (0 < self.level < 1, "must lie between 0 and 1, such as 0.95"),
            "resamples": (self.resamples is None or self.resamples == 0 or self.resamples >= 10, "must be 0 or >= 10"),
            "seed": (self.seed >= 0, "must not be negative"),
            "batch": (self.batch >= 1, "must be at least 1"),
            "pictures": (self.pictures >= 0, "must not be negative"),
            "resize": (self.resize in RESIZES, f"must be one of {', '.join(RESIZES)}"),
            "lpips_net": (self.lpips_net in LPIPS_NETS, f"must be one of {', '.join(LPIPS_NETS)}"),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                raise UserError(f"--{name}={getattr(self, name)}: {rule}")
