"""Peers reading the same samples; runs in an environment of their own, without Tarsia. Prints CPU-µs a sample.

python benchmarks/peers/stream.py webdataset FOLDER        # the tars of FOLDER/lake
python benchmarks/peers/stream.py litdata FOLDER           # written from them to FOLDER/litdata on the first call
python benchmarks/peers/stream.py energon FOLDER           # prepared in FOLDER/energon on the first call
"""

import gc
import json
import os
import sys
import time
from pathlib import Path

os.environ["LITDATA_DISABLE_VERSION_CHECK"] = "1"


def tars(folder):
    return sorted(map(str, Path(folder).glob("lake/corpora/noise/*.tar")))


def parsed(text, image):
    assert json.loads(bytes(text))["key"]
    return len(bytes(image)) > 10_000


def webdataset(folder):
    import webdataset as wds

    for sample in wds.WebDataset(tars(folder), shardshuffle=False, empty_check=False):
        yield parsed(sample["json"], sample["0.jpg"])


def litdata(folder):
    from litdata import StreamingDataset

    if not Path(folder, "litdata/index.json").exists():
        written(folder)
    for sample in StreamingDataset(f"{folder}/litdata", shuffle=False):
        yield parsed(sample["json"], sample["jpg"])


def written(folder):
    from litdata.streaming.writer import BinaryWriter

    writer = BinaryWriter(f"{folder}/litdata", chunk_bytes="64MB")
    for number, (text, image) in enumerate(pairs(folder)):
        writer[number] = {"json": text, "jpg": image}
    writer.done()
    writer.merge()


def pairs(folder):
    import tarfile

    for path in tars(folder):
        with tarfile.open(path) as tar:
            image = None
            for member in tar:
                data = tar.extractfile(member).read()
                if member.name.endswith(".json"):
                    yield data, image
                image = data


def energon(folder):
    from dataclasses import dataclass

    from megatron.energon import (
        Cooker,
        DefaultTaskEncoder,
        Sample,
        WorkerConfig,
        basic_sample_keys,
        get_loader,
        get_train_dataset,
        stateless,
    )

    if not Path(folder, "energon").exists():
        prepared(folder)

    @dataclass
    class Raw(Sample):
        text: bytes
        image: bytes

    @stateless
    def cook(sample):
        return Raw(**basic_sample_keys(sample), text=sample["json"], image=sample["0.jpg"])

    class Encoder(DefaultTaskEncoder):
        decoder = None
        cookers = [Cooker(cook)]

    one = WorkerConfig(rank=0, world_size=1, num_workers=0)
    dataset = get_train_dataset(
        f"{folder}/energon", batch_size=None, shuffle_buffer_size=None, max_samples_per_sequence=None, repeat=False,
        worker_config=one, task_encoder=Encoder(),
    )  # fmt: skip
    for sample in get_loader(dataset):
        yield parsed(sample.text, sample.image)


def prepared(folder):
    import shutil
    import subprocess

    Path(folder, "energon").mkdir()
    for path in tars(folder):
        shutil.copy(path, f"{folder}/energon")
    words = "--non-interactive --split-ratio 1,0,0 --sample-type CrudeWebdataset --num-workers 1 --no-progress"
    tool = Path(sys.executable).parent / "energon"
    subprocess.run([tool, "prepare", f"{folder}/energon", *words.split()], check=True, capture_output=True)


def main():
    """As `passes` of benchmarks/stream.py."""
    name, folder = sys.argv[1:]
    began, costs = time.process_time(), []
    read = {"webdataset": webdataset, "litdata": litdata, "energon": energon}[name]
    for number in range(3):
        samples = read(folder)
        next(samples)
        if not number:
            start = time.process_time() - began
        ready = time.process_time()
        count = sum(samples)
        costs.append((time.process_time() - ready) / count * 1e6)
        gc.collect()
        gc.freeze()
    print(json.dumps({"sample": min(costs[1:]), "first": costs[0], "start": start}))


if __name__ == "__main__":
    main()
