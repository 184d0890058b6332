from .datamodule import MultitaskDataModule as MultitaskDataModule
from .quickstart import quickstart_tasks as quickstart_tasks
from .reading.found_tasks import tasks_at as tasks_at
from .reading.task import Task as Task
from .stream import Stream as Stream
from .stream_loader import StreamLoader as StreamLoader
