from .metrics_csv import MetricsCSV as MetricsCSV
from .mlflow import RunMLflow as RunMLflow
from .tensorboard import RunTensorBoard as RunTensorBoard
from .wandb import RunWandb as RunWandb
