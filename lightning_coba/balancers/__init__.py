"""Balancers: one method, one file, one frozen dataclass with one state.

>>> from lightning_coba import replay
>>> from lightning_coba.balancers import Fixed
>>> replay(Fixed([3, 1]), losses=[[1.0, 2.0], [0.9, 1.5]])[-1].tolist()
[0.75, 0.25]
"""

from lightning_coba.balancers.alignedmtl import AlignedMTL
from lightning_coba.balancers.base import Balancer, Observation, replay
from lightning_coba.balancers.cagrad import CAGrad
from lightning_coba.balancers.coba import CoBa
from lightning_coba.balancers.dwa import DWA
from lightning_coba.balancers.explain import explain
from lightning_coba.balancers.famo import FAMO
from lightning_coba.balancers.fixed import Fixed
from lightning_coba.balancers.geometricmean import GeometricMean
from lightning_coba.balancers.gradnorm import GradNorm
from lightning_coba.balancers.imtlg import IMTLG
from lightning_coba.balancers.imtll import IMTLL
from lightning_coba.balancers.lbtw import LBTW
from lightning_coba.balancers.metaweighting import MetaWeighting
from lightning_coba.balancers.mgda import MGDA
from lightning_coba.balancers.nashmtl import NashMTL
from lightning_coba.balancers.pcgrad import PCGrad
from lightning_coba.balancers.rlw import RLW
from lightning_coba.balancers.stch import STCH
from lightning_coba.balancers.tokenmean import TokenMean
from lightning_coba.balancers.uniform import Uniform
from lightning_coba.balancers.upgrad import UPGrad
from lightning_coba.balancers.uw import UW

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
