"""What the folders of a sweep's jobs are named by: what varies among them, and what tells any two runs apart."""

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, flag_override

#: In the names even where they are the same for all jobs: the next sweep of the same name may have others.
_ALWAYS = ("balancer", "seed", "system", "data.only")


def name_by_what_varies(config: DictConfig) -> None:
    """Leave what is the same for all jobs of a sweep out of the names of their folders.

    Args:
        config: Of the sweep, before its jobs are composed. Where nothing varies, everything stays in.
    """
    typed = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
    varied = {one.key_or_group for one in typed if one.is_sweep_override()}
    if not varied and not config.hydra.sweeper.get("params"):
        return
    same = [one.key_or_group for one in typed if one.key_or_group not in (*_ALWAYS, *varied)]
    excluded = dict.fromkeys([*config.hydra.job.config.override_dirname.exclude_keys, *same])
    with flag_override(config, ["struct", "readonly"], False):
        config.hydra.overrides.hydra.append(
            f"hydra.job.config.override_dirname.exclude_keys=[{','.join(excluded)}]"  # jobs are composed with these
        )
