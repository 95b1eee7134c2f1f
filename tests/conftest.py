"""What every test needs before torch is imported."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # see orchestration.entry
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("MPLBACKEND", "Agg")
