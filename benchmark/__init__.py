"""Runner, data, training, evaluation and metrics of the benchmark; each verb is a module: ``python -m benchmark.run``."""

import os

# Before torch loads OpenMP: idle threads sleep instead of spinning. Alone on a machine this costs nothing measurable; beside
# any other process the spinning makes small operations slower by a factor of up to a hundred.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
