"""Names that leave room for what stands beside them."""


def shortened(name: str, longest: int = 24) -> str:
    """Cut the middle out of a name that would push the panel aside.

    Example:
        >>> shortened("a_task_with_a_long_name", longest=12)
        'a_tas…g_name'
    """
    half = longest // 2
    return name if len(name) <= longest else f"{name[: half - 1]}…{name[-half:]}"
