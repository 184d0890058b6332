from .alignedmtl import AlignedMTL as AlignedMTL
from .base import Balancer as Balancer, Observation as Observation, replay as replay
from .cagrad import CAGrad as CAGrad
from .coba import CoBa as CoBa
from .dwa import DWA as DWA
from .explanation import explain as explain
from .famo import FAMO as FAMO
from .fixed import Fixed as Fixed
from .geometricmean import GeometricMean as GeometricMean
from .gradnorm import GradNorm as GradNorm
from .imtlg import IMTLG as IMTLG
from .imtll import IMTLL as IMTLL
from .lbtw import LBTW as LBTW
from .metaweighting import MetaWeighting as MetaWeighting
from .mgda import MGDA as MGDA
from .nashmtl import NashMTL as NashMTL
from .pcgrad import PCGrad as PCGrad
from .rlw import RLW as RLW
from .stch import STCH as STCH
from .tokenmean import TokenMean as TokenMean
from .uniform import Uniform as Uniform
from .upgrad import UPGrad as UPGrad
from .uw import UW as UW

__all__: list[str]
