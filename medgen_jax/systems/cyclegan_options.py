"""What a CycleGAN run can choose, and which choices fit together."""

# No postponed annotations: config_flags reads the types of the configuration's fields.
import enum
from dataclasses import dataclass
from typing import Any

from medgen_jax.core.config import require, validate_shared, validate_types
from medgen_jax.core.errors import UserError
from medgen_jax.nn.resnet_generator import MIN_SIZE, valid_size
from medgen_jax.ops import defocus
from medgen_jax.ops.defocus import Optics
from medgen_jax.systems import options
from medgen_jax.systems.options import Gan, Upsample


class Norm(enum.Enum):
    """Normalisation of all networks; ``sample`` is that of the focus paper's code."""

    INSTANCE = "instance"
    SAMPLE = "sample"


class Pairs(enum.Enum):
    """What is known of images that show the same field."""

    NONE = "none"  # two unrelated streams, a and b
    EXTRA = "extra"  # and a third one of registered pairs, for the term loss.paired
    ALL = "all"  # every a comes with its b
    SYNTHETIC = "synthetic"  # every b is in focus, and its a is made from it (config.defocus)


class Penalty(enum.Enum):
    """Distance of two images, pixel by pixel."""

    L1 = "l1"
    MSE = "mse"


class Space(enum.Enum):
    """Where an image and its reconstruction are compared."""

    PIXEL = "pixel"
    FEATURE = "feature"


class ContentSource(enum.Enum):
    """What a translated image must resemble in feature space."""

    PAIR = "pair"  # the other image of its pair; needs pairs=all or synthetic
    INPUT = "input"  # the image it was made from


@dataclass(slots=True)
class ModelConfig:
    """Two residual generators and two PatchGAN discriminators."""

    a_channels: int = 3
    b_channels: int = 3
    ngf: int = 64  # width of a generator's first layer
    ndf: int = 64  # width of a discriminator's first layer
    blocks: int = 9  # residual blocks; 6 is usual below 256 pixels
    disc_layers: int = 3  # 3: a field of view of 70 x 70 pixels
    norm: Norm = Norm.INSTANCE
    upsample: Upsample = Upsample.CONVT
    residual: bool = False  # generators add their input


@dataclass(slots=True)
class LossConfig:
    """Weights of the generators' terms; 0 leaves a term and its computation out."""

    gan: Gan = Gan.LSGAN
    adversarial: float = 1.0
    reconstructed: float = 0.0  # adversarial term on the images that came back, by the discriminator of their domain
    cycle_a: float = 10.0  # |G_b(G_a(a)) - a|
    cycle_b: float = 10.0
    identity: float = 0.5  # |G_a(b) - b|, times the cycle weight of that domain
    content: float = 0.0  # in the feature space of VGG16
    content_source: ContentSource = ContentSource.PAIR
    cycle_space: Space = Space.PIXEL
    penalty: Penalty = Penalty.L1  # of cycle and identity in pixel space
    paired: float = 0.0  # |G_a(a) - b| and |G_b(b) - a| on registered pairs


@dataclass(slots=True)
class DefocusConfig:
    """The microscope that took the images in focus, and how far out of focus it goes; for pairs=synthetic. Metres."""

    pixel: float = 0.0  # side of a pixel in the object: camera pixel / magnification
    wavelength: tuple[float, ...] = (550e-9,)  # one, or three for red, green and blue
    na: float = 0.0  # numerical aperture
    index: float = 1.0  # refractive index of the medium
    z_min: float = 0.0  # |z| is uniform between these two, drawn for every image
    z_max: float = 0.0

    @property
    def optics(self) -> Optics:
        """The microscope.

        Raises:
          UserError: for values that no microscope has.
        """
        return Optics(self.pixel, self.wavelength, self.na, self.index)


def validate(config: Any) -> None:
    """Check a `medgen_jax.systems.cyclegan.Config`.

    Raises:
      UserError: naming the first field that is out of range or contradicts another.
    """
    validate_types(config)
    validate_shared(config.data, config.train)
    model, loss = config.model, config.loss
    options.require_channels(model, "a_channels", "b_channels")
    options.require_positive(model, "ngf", "ndf", "disc_layers", "blocks")
    equal = f"needs model.a_channels = {model.a_channels} and b_channels = {model.b_channels} to be equal"
    require(not model.residual or model.a_channels == model.b_channels, "model.residual", model.residual, equal)
    smallest = max(MIN_SIZE, 3 * 2**model.disc_layers)
    size, nearest = config.data.crop_size, valid_size(max(config.data.crop_size, smallest))
    rule = f"must be a multiple of 4 of at least {smallest}; the nearest valid size is {nearest}"
    require(size == nearest, "data.crop_size", size, rule)
    weights = ("adversarial", "reconstructed", "cycle_a", "cycle_b", "identity", "content", "paired")
    for name in weights:
        require(getattr(loss, name) >= 0, f"loss.{name}", getattr(loss, name), "must not be negative")
    registered = config.pairs in (Pairs.ALL, Pairs.SYNTHETIC)
    wrong = loss.content > 0 and loss.content_source is ContentSource.PAIR and not registered
    rule = "compares with the registered pair: set pairs=all, or content_source=input for unpaired images"
    require(not wrong, "loss.content_source", loss.content_source.value, rule)
    rule = "needs registered pairs: set pairs=extra or pairs=all"
    require(loss.paired == 0 or config.pairs is not Pairs.NONE, "loss.paired", loss.paired, rule)
    rule = "adds a stream of pairs that no term uses: set loss.paired"
    require(config.pairs is not Pairs.EXTRA or loss.paired > 0, "pairs", config.pairs.value, rule)
    same = loss.content_source is ContentSource.PAIR or loss.content == 0 or model.a_channels == model.b_channels
    require(same, "loss.content_source", loss.content_source.value, equal)
    require(config.pool >= 0, "pool", config.pool, "must not be negative")
    if config.pairs is Pairs.SYNTHETIC:
        require(model.a_channels == model.b_channels, "pairs", config.pairs.value, equal)
        _validate_defocus(config.defocus, model.b_channels)
    options.validate_optim(config.optim)


def _validate_defocus(blur: DefocusConfig, channels: int) -> None:
    for name in ("pixel", "na", "z_max"):
        rule = "pairs=synthetic needs it, in metres" if name != "na" else "pairs=synthetic needs it"
        require(getattr(blur, name) > 0, f"defocus.{name}", getattr(blur, name), rule)
    rule = f"must be at least 0 and at most defocus.z_max = {blur.z_max}"
    require(0 <= blur.z_min <= blur.z_max, "defocus.z_min", blur.z_min, rule)
    try:
        blur.optics.check_channels(channels)
        defocus.otf((8, 8), blur.optics, blur.z_max)
    except UserError as error:
        raise UserError(f"config.defocus: {error}") from error
