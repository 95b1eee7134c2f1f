"""pythae's side of codes.py, run by its own interpreter: its PixelCNN, trainer and sampler, as it ships them.

    python codes_theirs.py {fit,load} NUM_SAMPLES EPOCHS

Works in the current folder, on `train.npy`, `val.npy`, `test.npy`, `codebook.npy` and `decoder.npz`. `fit` trains the
network on the given codes, as the sampler's own `fit` does once it has codes, keeps it, and draws as the sampler does;
`load` draws from that network in evaluation mode without gradients. A round draws NUM_SAMPLES images; the decoder is
ours, module for module.
"""

import json
import platform
import sys
import time
from contextlib import nullcontext, redirect_stdout
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from pythae.data.datasets import BaseDataset
from pythae.models import VQVAE, VQVAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.models.normalizing_flows import PixelCNN
from pythae.samplers import PixelCNNSampler, PixelCNNSamplerConfig
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from rounds import Rounds
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[2]))
from stage1_vae.likelihoods import DiscretizedLogisticLikelihood
from stage1_vae.nets.conv import ConvDecoder

LAYERS, BATCH_SIZE, LEARNING_RATE = 6, 128, 1e-3
CHANNELS = {7: (32, 64), 4: (32, 64, 64)}
KEPT, FACTS = Path("pixelcnn"), Path("pixelcnn.json")


class Grid(BaseEncoder):
    """Says what the features are; images are never encoded here, their codes are given."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> ModelOutput:
        return ModelOutput(embedding=x.new_zeros(len(x), *self.shape))


class Decoder(BaseDecoder):
    """Our decoder and likelihood; keeps the time that it takes."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.likelihood, self.seconds = DiscretizedLogisticLikelihood(), 0.0
        self.net = ConvDecoder(shape, (self.likelihood.num_params, 28, 28), CHANNELS[shape[1]], False)
        weights = np.load("decoder.npz", allow_pickle=False)
        self.net.load_state_dict({name: torch.from_numpy(weights[name]) for name in weights.files})

    def forward(self, z: Tensor) -> ModelOutput:
        started = time.perf_counter()
        mean = self.likelihood(self.net(z).float()).mean
        self.seconds += time.perf_counter() - started
        return ModelOutput(reconstruction=mean)


def codes(name: str) -> Tensor:
    """[N, 1, h, w] float32, as the PixelCNN takes them."""
    return torch.from_numpy(np.load(f"{name}.npy", allow_pickle=False)).float()[:, None]


def dataset(name: str) -> BaseDataset:
    x = codes(name)
    return BaseDataset(x, torch.zeros(len(x)))


def sampler() -> PixelCNNSampler:
    """pythae's sampler over a VQ-VAE of our codebook and decoder."""
    codebook, (_, _, height, width) = torch.from_numpy(np.load("codebook.npy", allow_pickle=False)), codes("val").shape
    shape = (codebook.shape[1], height, width)
    config = VQVAEConfig(input_dim=(1, 28, 28), latent_dim=codebook.shape[1], num_embeddings=len(codebook))
    model = VQVAE(config, Grid(shape), Decoder(shape))
    model.quantizer.embeddings.weight.data.copy_(codebook)
    return PixelCNNSampler(model, PixelCNNSamplerConfig(n_layers=LAYERS))


def fit(network: PixelCNN, epochs: int) -> None:
    """Train and keep it, with its held-out nats."""
    config = BaseTrainerConfig(
        output_dir="training",
        num_epochs=epochs,
        learning_rate=LEARNING_RATE,
        per_device_train_batch_size=BATCH_SIZE,
        per_device_eval_batch_size=BATCH_SIZE,
    )
    trainer = BaseTrainer(network, dataset("train"), dataset("val"), training_config=config)
    trainer.train()
    best = PixelCNN.load_from_folder(str(Path(trainer.training_dir) / "final_model"))
    best.save(str(KEPT))
    FACTS.write_text(json.dumps({"nats": nats(best.eval(), codes("test"))}), encoding="utf-8")


@torch.no_grad()
def nats(network: PixelCNN, z: Tensor) -> float:
    """Mean -log P(codes) of an image: the sum over places of the cross-entropy, by teacher forcing."""
    total = 0.0
    for block in z.split(500):
        logits = network({"data": block}).out  # [B, K, 1, h, w]
        total += torch.nn.functional.cross_entropy(logits, block.long(), reduction="sum").item()
    return total / len(z)


def main(how: str, num_samples: str, epochs: str) -> None:
    with redirect_stdout(sys.stderr):
        drawing = sampler()
        if how == "fit":
            fit(drawing.pixelcnn_model, int(epochs))
    drawing.pixelcnn_model, drawing.is_fitted = PixelCNN.load_from_folder(str(KEPT)), True
    if how == "load":
        drawing.pixelcnn_model.eval()
    facts = {"name": f"pythae {version('pythae')}", "torch": torch.__version__, "python": platform.python_version()}
    rounds = Rounds(facts | json.loads(FACTS.read_text(encoding="utf-8")) | {"threads": torch.get_num_threads()})
    decoder = drawing.model.decoder
    while True:
        rounds.begin()
        started, decoder.seconds = time.perf_counter(), 0.0
        with torch.no_grad() if how == "load" else nullcontext():
            drawing.sample(int(num_samples))
        rounds.end(codes_seconds=time.perf_counter() - started - decoder.seconds)


if __name__ == "__main__":
    main(*sys.argv[1:])
