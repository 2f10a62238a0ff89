"""A process of a training run, as torchrun would start it. Forked from a server that has imported torch once."""

import multiprocessing
import os
from multiprocessing.process import BaseProcess

SERVER = multiprocessing.get_context("forkserver")


def start(world: int, port: int, arguments: list[str]) -> list[BaseProcess]:
    """The processes of all ranks; `examples/train` is on the path."""
    SERVER.set_forkserver_preload(["train", "torch._dynamo"])  # which every optimizer imports
    processes = [SERVER.Process(target=_rank, args=(rank, world, port, arguments)) for rank in range(world)]
    for process in processes:
        process.start()
    return processes


def _rank(rank: int, world: int, port: int, arguments: list[str]) -> None:
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update(address, RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank))
    import torch
    from train import main

    torch.set_num_threads(1)
    main(arguments)
