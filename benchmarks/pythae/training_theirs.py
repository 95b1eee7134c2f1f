"""pythae's side of the training, run by its own interpreter: its VAE, its trainer, its data loader, as it ships them.

    python training_theirs.py {reference,wide_conv} IMAGES.npy BATCH_SIZE

A round is one epoch, from its start to the end of its last step: the copy of the best model that pythae makes after an
epoch is not counted. It writes nothing but its (empty) output folder, into the current one.
"""

import platform
import sys
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.models.nn.benchmarks.mnist import Decoder_Conv_AE_MNIST, Encoder_Conv_VAE_MNIST
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from pythae.trainers.training_callbacks import TrainingCallback
from rounds import Rounds
from torch import Tensor, nn

CONFIG = VAEConfig(input_dim=(1, 28, 28), latent_dim=16, reconstruction_loss="bce")


class ReferenceEncoder(BaseEncoder):
    """784-512-(16, 16)."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.loc, self.log_var = nn.Linear(784, 512), nn.Linear(512, 16), nn.Linear(512, 16)

    def forward(self, x: Tensor) -> ModelOutput:
        h = torch.relu(self.hidden(x.flatten(1)))  # [B, 512]
        return ModelOutput(embedding=self.loc(h), log_covariance=self.log_var(h))


class ReferenceDecoder(BaseDecoder):
    """16-512-784; pythae wants probabilities, not logits."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.output = nn.Linear(16, 512), nn.Linear(512, 784)

    def forward(self, z: Tensor) -> ModelOutput:
        h = torch.relu(self.hidden(z))  # [B, 512]
        return ModelOutput(reconstruction=torch.sigmoid(self.output(h)).view(-1, 1, 28, 28))


NETS = {
    "reference": lambda: VAE(CONFIG, ReferenceEncoder(), ReferenceDecoder()),
    "wide_conv": lambda: VAE(CONFIG, Encoder_Conv_VAE_MNIST(CONFIG), Decoder_Conv_AE_MNIST(CONFIG)),
}


class Timed(TrainingCallback):
    """Makes each epoch a round."""

    def __init__(self, rounds: Rounds) -> None:
        self.rounds, self.left = rounds, 0

    def on_epoch_begin(self, training_config: BaseTrainerConfig, **kwargs: Any) -> None:
        self.left = len(kwargs["train_loader"])
        self.rounds.begin()

    def on_train_step_end(self, training_config: BaseTrainerConfig, **kwargs: Any) -> None:
        self.left -= 1
        if self.left == 0:
            self.rounds.end()


def main(net: str, images: str, batch_size: str) -> None:
    facts = {"name": f"pythae {version('pythae')}", "torch": torch.__version__, "python": platform.python_version()}
    rounds = Rounds(facts | {"threads": torch.get_num_threads()})
    x = torch.from_numpy(np.load(images, allow_pickle=False)).float() / 255
    config = BaseTrainerConfig(
        output_dir=".", per_device_train_batch_size=int(batch_size), num_epochs=10**6, learning_rate=1e-3
    )
    trainer = BaseTrainer(
        NETS[net](), BaseDataset(x, torch.zeros(len(x))), training_config=config, callbacks=[Timed(rounds)]
    )
    trainer.train()


if __name__ == "__main__":
    main(*sys.argv[1:])
