"""The matrix products of a training step alone, on numbers that lie ready.

    python training_products.py {reference,wide_conv} NUM_BATCHES BATCH_SIZE

A layer is one product of the forward pass and two of the backward one, of its input's gradient and its weight's; the
first needs no gradient of its input. A convolution counts as the product of whole patches and its weight, without what
gathers them; of the wide ones a fifth of the numbers in patches are padding, which another way to convolve can leave
out. A round is an epoch.
"""

import platform
import sys
from dataclasses import dataclass

import torch
from rounds import Rounds


@dataclass(frozen=True)
class Product:
    """[rows an image x batch, inputs] times [inputs, outputs]."""

    rows: int
    inputs: int
    outputs: int


NETS = {
    "reference": (Product(1, 784, 512), Product(1, 512, 32), Product(1, 16, 512), Product(1, 512, 784)),
    "wide_conv": (
        Product(14 * 14, 16, 128),
        Product(7 * 7, 16 * 128, 256),
        Product(3 * 3, 16 * 256, 512),
        Product(1, 16 * 512, 1024),
        Product(1, 1024, 32),
        Product(1, 16, 1024 * 16),
        Product(4 * 4, 1024, 9 * 512),  # transposed: the products come first, and overlap in the output
        Product(7 * 7, 512, 9 * 256),
        Product(14 * 14, 256, 9),
    ),
}


@torch.inference_mode()
def main(net: str, num_batches: int, batch_size: int) -> None:
    rounds = Rounds(
        {
            "name": "products",
            "torch": torch.__version__,
            "python": platform.python_version(),
            "threads": torch.get_num_threads(),
        }
    )
    layers = [
        (
            torch.randn(batch_size * layer.rows, layer.inputs),
            torch.randn(layer.inputs, layer.outputs),
            torch.randn(batch_size * layer.rows, layer.outputs),
        )
        for layer in NETS[net]
    ]
    outputs = [(torch.empty_like(x), torch.empty_like(weight), torch.empty_like(y)) for x, weight, y in layers]
    while True:
        rounds.begin()
        for _ in range(num_batches):
            for number, ((x, weight, y), (dx, dweight, out)) in enumerate(zip(layers, outputs, strict=True)):
                torch.mm(x, weight, out=out)
                torch.mm(x.T, y, out=dweight)
                if number:
                    torch.mm(y, weight.T, out=dx)
        rounds.end()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
