"""Look at data before training on it: what would go wrong, what a step will look like, and a first configuration."""

from lightning_coba.inspection.findings import Finding
from lightning_coba.inspection.inspecting import Inspection, inspect_data
from lightning_coba.inspection.steps import RunLength

__all__ = ["Finding", "Inspection", "RunLength", "inspect_data"]
