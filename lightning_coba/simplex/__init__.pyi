from .figures import (
    loss_ratio_figure as loss_ratio_figure,
    scores_figure as scores_figure,
    weights_figure as weights_figure,
    write_figures as write_figures,
)
from .protocol import MovesSimplex as MovesSimplex, Simplex as Simplex, simplexes_of as simplexes_of
from .records import BalanceTable as BalanceTable, read_balance as read_balance
from .trajectory import Trajectory as Trajectory
