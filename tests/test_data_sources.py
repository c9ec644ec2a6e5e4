"Processes that read images do not outlive their use"
import subprocess
import sys

FORKED = """
from multiprocessing import get_context
import numpy as np
from logex_nb.data.sources import read_images

def read_many():
    read_images(lambda name, size: np.full((size, size, 3), int(name) % 256), [str(i) for i in range(300)], 4)

process = get_context("fork").Process(target=read_many)
process.start()
process.join()
raise SystemExit(process.exitcode)
"""


def test_a_forked_process_that_read_images_ends():
    # idle workers of joblib would stay for 300 seconds, and the process would wait for them
    assert subprocess.run([sys.executable, "-c", FORKED], timeout=100).returncode == 0
