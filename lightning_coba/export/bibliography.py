"""The papers and programs that a run may rest on, and which of them each balancer, adapter and base model rests on.

A new balancer needs an entry in `bibliography.bib`, unless its paper is there already, and a line in `OF_BALANCER`.
"""

from importlib.resources import files

#: Every entry, once; fields that could not be confirmed are left out.
BIBTEX = (files(__package__) / "bibliography.bib").read_text(encoding="utf-8")
#: torchjd asks for its authors' paper where its rules are used.
_TORCHJD = "quinton2024jacobian"
#: Class name of a balancer -> keys of the papers that its rule comes from.
OF_BALANCER: dict[str, tuple[str, ...]] = {
    "AlignedMTL": ("senushkin2023alignedmtl", _TORCHJD),
    "CAGrad": ("liu2021cagrad", _TORCHJD),
    "CoBa": ("gong2024coba",),
    "DWA": ("liu2019mtan", _TORCHJD),
    "FAMO": ("liu2023famo",),
    "Fixed": (),
    "GeometricMean": ("chennupati2019multinet", _TORCHJD),
    "GradNorm": ("chen2018gradnorm",),
    "IMTLG": ("liu2021imtl", _TORCHJD),
    "IMTLL": ("liu2021imtl", _TORCHJD),
    "LBTW": ("liu2019lbtw",),
    "MGDA": ("sener2018mgda", "desideri2012mgda", _TORCHJD),
    "MetaWeighting": ("mao2022metaweighting",),
    "NashMTL": ("navon2022nashmtl", _TORCHJD),
    "PCGrad": ("yu2020pcgrad", _TORCHJD),
    "RLW": ("lin2022rlw", _TORCHJD),
    "STCH": ("lin2024stch", _TORCHJD),
    "TokenMean": ("liu2023mftcoder",),
    "UPGrad": (_TORCHJD,),
    "UW": ("kendall2018uw", _TORCHJD),
    "Uniform": (),
}

#: Parts of a base model's name, in lower case -> its paper.
OF_BASE_MODEL = {"smollm2": "allal2025smollm2"}
