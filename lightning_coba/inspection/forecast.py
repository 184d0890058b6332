"""What a run will take, from what a few of its steps took."""

from typing import NamedTuple

#: What a whole run holds in main memory beyond its first steps, as a factor: it meets more shapes of batches, between
#: which the allocator leaves gaps. Runs were measured to hold 1 to 24 % more than their rehearsal.
GROWTH = 1.1
#: Share of the memory from which on a run may run out of it.
TIGHT = 0.7
#: Load per core from which on times say little about a machine at rest.
BUSY = 0.5


class Measured(NamedTuple):
    """What a rehearsal took.

    Attributes:
        step_seconds: Mean optimizer step of an epoch.
        validation_seconds: A validation pass.
        test_seconds: A test.
        timed_steps: Optimizer steps that this was measured on.
        peak_bytes: Most memory held: of the GPU, or of the process where there is none.
        device: Name of the device.
        threads: Threads that computed; 0 on a GPU.
        precision: Lightning's name of it.
        load: Processes that wanted to compute before it began, on average over a minute.
        cores: Cores of the machine.
        start_seconds: From the command to the first batch.
        total_bytes: Memory that there is; 0 = not known.
    """

    step_seconds: float
    validation_seconds: float
    test_seconds: float
    timed_steps: int
    peak_bytes: int
    device: str
    threads: int
    precision: str
    load: float
    cores: int
    start_seconds: float = 0.0
    total_bytes: int = 0

    @property
    def expected_bytes(self) -> float:
        """Memory that a whole run holds."""
        return self.peak_bytes * (GROWTH if self.threads else 1)

    @property
    def is_tight(self) -> bool:
        """Whether a run may run out of memory: a longer one meets more shapes, and holds up to a quarter more."""
        return self.peak_bytes > TIGHT * self.total_bytes > 0


class Forecast(NamedTuple):
    """What a run will take.

    Attributes:
        measured: What it follows from.
        steps: Optimizer steps of the run.
        passes: Validation passes between them.
        baseline_passes: Validation passes before training.
        tests: Tests before and after training.
    """

    measured: Measured
    steps: int
    passes: int
    baseline_passes: int = 1
    tests: int = 2

    @property
    def training_seconds(self) -> float:
        """All optimizer steps."""
        return self.steps * self.measured.step_seconds

    @property
    def validation_seconds(self) -> float:
        """All validation passes between them."""
        return self.passes * self.measured.validation_seconds

    @property
    def around_seconds(self) -> float:
        """Loading, the pass before training, and the tests."""
        of = self.measured
        return of.start_seconds + self.baseline_passes * of.validation_seconds + self.tests * of.test_seconds

    @property
    def seconds(self) -> float:
        """The whole run."""
        return self.training_seconds + self.validation_seconds + self.around_seconds

    @property
    def validation_share(self) -> float:
        """Share of validation in the time between the first step and the last."""
        total = self.training_seconds + self.validation_seconds
        return self.validation_seconds / total if total else 0.0

    def sentences(self) -> list[str]:
        """Say it."""
        of = self.measured
        before = ["the pass before training"] if self.baseline_passes else []
        around = f"{', '.join(['loading', *before])} and {'a test' if self.tests == 1 else 'two tests'}"
        where = f"{of.device}, {of.precision}" + (f", {of.threads} threads" if of.threads else "")
        there = f" of {of.total_bytes / 1e9:.1f} GB" if of.total_bytes else ""
        said = [
            f"The run will take about {minutes(self.seconds)}: {minutes(self.training_seconds)} of training, "
            f"{minutes(self.validation_seconds)} of validation ({self.validation_share:.0%} of the two), "
            f"{minutes(self.around_seconds)} of {around}.",
            f"It will need about {of.expected_bytes / 1e9:.1f} GB of memory{there}"
            f"{'' if of.threads else ' on the GPU'}. Measured on {of.timed_steps} steps: {where}.",
        ]
        if of.is_tight:
            said.append(
                "That may be too much, since a whole run needs up to a quarter more: lower data.batch_size (with "
                "trainer.accumulate_grad_batches the step stays the same) or data.max_length."
            )
        if of.load > BUSY * of.cores:
            said.append(
                f"The machine was busy (load {of.load:.1f} on {of.cores} cores), which may have made these times "
                "several times as long: for better ones, give the command again when it is idle."
            )
        return said


def minutes(seconds: float) -> str:
    """Return a time in words.

    Example:
        >>> minutes(42), minutes(200), minutes(640), minutes(9000)
        ('42 s', '3.3 min', '11 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
