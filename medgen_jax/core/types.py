"""The vocabulary of array shapes: one name per kind of array, used in annotations.

Axes: b batch, h height, w width, c channels, led illumination, d features, k classes.
"""

from __future__ import annotations

from jaxtyping import Array, Complex, Float, Int, UInt

Image = Float[Array, "b h w c"]  # NHWC; in [-1, 1] unless a docstring says otherwise
RawImage = UInt[Array, "b h w c"]  # uint8 or uint16, as it travels to the device
Logits = Float[Array, "b h w 1"]  # a patch discriminator's answer before the sigmoid
Mask = Float[Array, "b"]  # 1 for real records, 0 for padding
Labels = Int[Array, "b"]
Features = Float[Array, "b d"]
Stack = Float[Array, "led h w"]  # intensities, one frame per illumination
Field = Complex[Array, "h w"]  # a complex object or pupil
Scalar = Float[Array, ""]
