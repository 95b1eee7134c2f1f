"""What a report is about, in words: images that two stages make, or latents that somebody else encoded, without images.

Everything that a report says is said once, and takes the words that differ from here.
"""

from dataclasses import dataclass

from expost.evaluation.row_names import RECONSTRUCTIONS, TRAIN_AGAINST_TEST


@dataclass(frozen=True)
class Nouns:
    """Attributes:
    one, many: of what is judged.
    an: the same behind "nats".
    source, sources: of what a latent was encoded from.
    decoded: in front of draws, where a decoder has made of them what is judged.
    figures: of test images or latents, that have a standard error.
    ceiling, best: row that ends the gap which a learned prior closes, and what it is of.
    """

    one: str
    many: str
    an: str
    source: str
    sources: str
    decoded: str
    figures: str
    ceiling: str
    best: str


IMAGES = Nouns(
    one="image",
    many="images",
    an="an image",
    source="image",
    sources="images",
    decoded="decoded ",
    figures="bounds",
    ceiling=RECONSTRUCTIONS,
    best="reconstructions",
)
LATENTS = Nouns(
    one="latent",
    many="latents",
    an="a latent",
    source="item",
    sources="items",
    decoded="",
    figures="nats",
    ceiling=TRAIN_AGAINST_TEST,
    best="training latents",
)
JUDGED = {"images": IMAGES, "latents": LATENTS}
"""By what a report says that it judged."""
