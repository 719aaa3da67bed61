"""Arrays in, float32 scalars out: adversarial, pixel and perceptual terms, regularisers.

Every loss is a pure function of logits, images or features and is a mean, never a sum. Networks are no
business of this room: feature functions arrive as arguments. Weights belong to the system that adds the
terms up.
"""
