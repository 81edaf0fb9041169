"""Entropic optimal transport from few suppliers (instances) to many consumers (pixels).

`sinkhorn` and `sinkhorn_batch` run a given number of Sinkhorn iterations, as the papers do; `solve_transport` solves the
same problem to convergence. Without any coupling of the pixels it is `methods.ops.assignment.assign`.
"""

from methods.ops.transport.newton import solve_transport
from methods.ops.transport.problem import TINY, Transport
from methods.ops.transport.sinkhorn import sinkhorn, sinkhorn_batch

__all__ = ["TINY", "Transport", "sinkhorn", "sinkhorn_batch", "solve_transport"]
