"""Pictures of a report. matplotlib is slow to import: whoever only shows them finds their names here."""

PICTURES = {
    "samples": "Decoded draws of the baseline beside decoded draws of the learned prior.",
    "classes": "Samples of each class that the learned prior was fitted to, one row a class, beside test images of it; "
    "the share is that of all its samples which the classifier takes for it.",
    "neighbours": "Samples, each with its nearest training image on its right (nearest in the features).",
    "latents": "Latents of training images on their first two principal axes, against both priors.",
    "reconstructions": "Test images and their reconstructions, the mean of p(x|z) at z ~ q(z|x).",
    "interpolations": "From one test image to another, through latent space.",
    "curves": "Training of both stages.",
    "codes": "How evenly codes are used.",
}
"""File stem -> caption, in the order of the report; `codes` exists of codes alone, `classes` of conditional priors."""
