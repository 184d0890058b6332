"""Every key that this package logs and every column of its records: one file, so that no call site invents one."""

TRAIN_LOSS = "train_loss"
VAL_LOSS = "val_loss"
TEST_LOSS = "test_loss"
TEST_TOKEN_ACCURACY = "test_token_accuracy"
TEST_EXACT_MATCH = "test_exact_match"
BALANCE = "balance"
LOSS_SPIKES = "loss_spikes"

#: Columns of ``balance.csv``, one row per record and task.
BALANCE_COLUMNS = (
    "record", "step", "task", "loss", "ratio", "slope", "rcs", "acs", "divergence_factor", "weight",
)  # fmt: skip


def task_key(prefix: str, task: str) -> str:
    """Return the key of a per-task quantity, such as ``val_loss/code``."""
    return f"{prefix}/{task}"


def simplex_prefix(name: str) -> str:
    """Return what the keys of a simplex begin with: ``balance``, or ``balance/<name>`` where it has another name."""
    return BALANCE if name == BALANCE else f"{BALANCE}/{name}"


def metric_key(metric: str, task: str) -> str:
    """Return the key of a metric of generated validation answers, such as ``val_chrf/code``."""
    return task_key(f"val_{metric}", task)


def token_key(prefix: str) -> str:
    """Return the key of the loss over all tokens, such as ``val_loss_token``."""
    return f"{prefix}_token"
