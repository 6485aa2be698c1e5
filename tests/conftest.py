"""Settings of all tests."""

import logging
import os

import torch

# LightningCLI 2.6 calls jsonargparse by older names, which it announces as warnings.
os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"
# Students this small are slower on two threads, and workers of pytest share the cores.
torch.set_num_threads(1)
# Lightning's log handler keeps the stream of the test in which it was made, which is closed by now.
logging.raiseExceptions = False
