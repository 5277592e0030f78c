"""One thread inside operators: tests are tiny, and threads that wait for each other are not faster.

Set before anything imports torch, and inherited by the processes that tests start.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
