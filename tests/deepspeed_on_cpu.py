"""Imported once by the fork server of tests/processes.py: its children are ranks on the CPU, GPU or
none beside it.
"""

from importlib import import_module

import torch

from recmind_dist.distributed.accelerator import import_deepspeed

import_deepspeed(torch.device("cpu"))
# an engine's first start would import it, for seconds
import_module("deepspeed.runtime.zero.muon.muon_optimizer")
