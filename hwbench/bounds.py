"""The largest numbers that a profile, a specification or a study's settings may hold.

Each is beyond what any machine has or any run needs. A typing error, or a malicious file, is thus refused with its key path
before anything is allocated, started or waited for.
"""

from __future__ import annotations

PROCESSORS = 8192
"""Processors, threads and processes at once: what Linux can be built for on x86-64."""
LEAST_QUOTA = 0.01
"""Cores' worth of processor time: Linux enforces 1 ms in its period of 100 ms at least."""
MEMORY_MIB = 1 << 26
"""64 TiB, the memory that x86-64 processors with 46 bits of physical address reach."""
BLOCK = 1 << 16
"""Weights that share a scale: longer than the rows of the matrices of public models."""
BATCH = 1 << 20
"""Inputs in one run."""
HOURS = 1e7
"""A thousand years of service."""
FIT_PER_MBIT = 1e12
"""Errors per 10⁹ hours and Mbit: a thousand in every hour."""
INPUTS = 10**9
"""Inputs that are looked at, or calibrated on."""
TRIALS = 5 * 10**6
"""Faults of one campaign: planning them takes 3 GB."""
DRAWS = 10**5
"""Random realizations of one disturbance, and chips."""
FLIPS = 10**4
"""Flips of a search for the worst: some ten destroy a model."""
CANDIDATES = 1000
"""Flips of a tensor that a search tries before it chooses one."""
REPEATS = 10**6
"""Runs in one process, layers of a model, columns of a memory."""
LAUNCHES = 10**4
"""Fresh processes of one job, and windows of one process."""
POINTS = 1000
"""Settings that one study sweeps over, and profiles of one run."""
WAIT_S = 1_000_000.0
"""Eleven days. The kernel counts milliseconds in 31 bits, which are used up after 24.8 days."""
SEED = (1 << 63) - 1
"""What a column of 64-bit integers holds."""
