from .datamodule import MultitaskDataModule as MultitaskDataModule
from .quickstart import quickstart_tasks as quickstart_tasks
from .reading.task import Task as Task, tasks_at as tasks_at
from .stream import Stream as Stream
from .stream_loader import StreamLoader as StreamLoader
