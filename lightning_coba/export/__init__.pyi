from .base_model import BaseModel as BaseModel
from .export import export_run as export_run
from .loading import export_notes as export_notes
from .merge import merge_adapter as merge_adapter
from .readme import ModelCard as ModelCard, model_card as model_card
