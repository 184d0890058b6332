from .evaluating import evaluate as evaluate, evaluate_model as evaluate_model
from .generation_metrics import GenerationMetrics as GenerationMetrics
from .metrics import METRICS as METRICS, TextMetric as TextMetric
from .results import Evaluation as Evaluation
