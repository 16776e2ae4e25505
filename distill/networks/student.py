"""Builds a student from its configuration."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from distill.config import GENERAL, ConfigError, RestormerConfig, UNetConfig, general_student
from distill.networks.architecture import architecture, build_network
from distill.networks.student_files import load_student
from restormer.model import Restormer
from restormer.published import locate_weights


def build_student(student: UNetConfig | RestormerConfig, seed: int) -> nn.Module:
    """A student before training, with the weights of `student.init` if given, else random weights that depend only on the seed.

    Raises ConfigError, WeightsError and FileNotFoundError.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_network(student)
    if student.init is not None:
        _load_init(model, student)
    elif isinstance(model, Restormer):
        # The last layer starts at zero, as in a residual U-Net: the first prediction is the input, not noise.
        for parameter in model.output.parameters():
            nn.init.zeros_(parameter)
    return model


def _load_init(model: nn.Module, student: UNetConfig | RestormerConfig) -> None:
    assert student.init is not None
    if isinstance(student, RestormerConfig):
        path, residual = locate_weights(student.init), False
    else:
        path, residual = general_student() if student.init == GENERAL else Path(student.init), student.residual
    loaded = load_student(path, residual)
    state = loaded.state_dict()
    own = model.state_dict()
    if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in state.items()}:
        raise ConfigError(f"student.init: {path} is of another network than student describes ({architecture(student)})")
    if isinstance(student, UNetConfig) and loaded.residual != student.residual:
        raise ConfigError(f"student.init: {path} is of a network with residual: {not student.residual}")
    model.load_state_dict(state)
