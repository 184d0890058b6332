"""Balancers: one paper, one file, one frozen dataclass with one state.

>>> from lightning_coba import replay
>>> from lightning_coba.balancers import Fixed
>>> replay(Fixed([3, 1]), losses=[[1.0, 2.0], [0.9, 1.5]])[-1].tolist()
[0.75, 0.25]
"""

from lightning_coba.balancers.base import Balancer, Observation, replay
from lightning_coba.balancers.coba import CoBa
from lightning_coba.balancers.explain import explain
from lightning_coba.balancers.famo import FAMO
from lightning_coba.balancers.fixed import Fixed
from lightning_coba.balancers.gradnorm import GradNorm
from lightning_coba.balancers.lbtw import LBTW
from lightning_coba.balancers.metaweighting import MetaWeighting
from lightning_coba.balancers.tokenmean import TokenMean
from lightning_coba.balancers.torchjd_averages import DWA
from lightning_coba.balancers.torchjd_gradients import IMTLG, MGDA, AlignedMTL, PCGrad
from lightning_coba.balancers.torchjd_learned import IMTLL, UW
from lightning_coba.balancers.torchjd_losses import RLW, STCH, GeometricMean
from lightning_coba.balancers.torchjd_solvers import CAGrad, NashMTL, UPGrad
from lightning_coba.balancers.uniform import Uniform

__all__ = [
    "DWA",
    "FAMO",
    "IMTLG",
    "IMTLL",
    "LBTW",
    "MGDA",
    "RLW",
    "STCH",
    "UW",
    "AlignedMTL",
    "Balancer",
    "CAGrad",
    "CoBa",
    "Fixed",
    "GeometricMean",
    "GradNorm",
    "MetaWeighting",
    "NashMTL",
    "Observation",
    "PCGrad",
    "TokenMean",
    "UPGrad",
    "Uniform",
    "explain",
    "replay",
]
