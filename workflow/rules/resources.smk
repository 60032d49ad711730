"""What a job asks a cluster for: GPU, memory, time; last, what the site allows a stage.

On a workstation `gpu` alone limits anything. On a cluster all of these are requests: on the large side, and multiplied
by the attempt, so that what was killed for memory or time comes back with more (a training goes on from its last saved
epoch). Other numbers go under `set-resources` in profiles/slurm.
"""

import inspect

from allround import example_sets
from allround.datasets import shapes
from allround.strategies import describe

CPU_MB = 2000  # Python, PyTorch, and the two snakemakes around every job on SLURM
GPU_MB = 6000  # the same with CUDA's libraries
BLOCKS_MB = 2000  # of images and activations that an embedding holds at a time, on the large side
FEATURES = 2048  # the widest of common networks
SLOWEST_MB = 1.5  # of images (uint8) a second, through the slowest network and device that one would wait for
SLOWEST_IMAGES = 500  # a second, in training


def training_gpus(wildcards):
    """Trainings and embeddings take a GPU. The machine that plans need not have one: with `auto` SLURM is asked."""
    if on_slurm() and config["device"] == "auto":
        return 1
    return GPU


def query_gpus(wildcards):
    """As embed, but SLURM need give none to a query that reads class probabilities alone: a pass over N x C numbers."""
    entry = STUDY.strategies[STUDY.arms[wildcards.arm]]
    light = {"predictions", *example_sets.NAMES}
    if config["device"] == "auto" and set(describe(entry["strategy"]).needs) <= light:
        return 0 if on_slurm() else GPU
    return training_gpus(wildcards)


def train_memory(wildcards, attempt):
    """MB: three times the labelled images, for they are copied, and the learner's file of weights."""
    size = 3 * labelled(wildcards) * image_mb(wildcards) + weights_mb(wildcards)
    return int(attempt * (base_mb(training_gpus(wildcards)) + size))


def embed_memory(wildcards, attempt):
    """MB: images are read and outputs are written in blocks; a network is about as large as the file it came from."""
    size = min(2 * images_mb(wildcards), BLOCKS_MB) + weights_mb(wildcards)
    return int(attempt * (base_mb(training_gpus(wildcards)) + size))


def query_memory(wildcards, attempt):
    """MB: two copies of the features in float32. With less, a query reads them more often, in smaller blocks."""
    found = pool_shapes(wildcards)
    size = 2 * 4e-6 * FEATURES * found.train[0] if found else 0
    return int(attempt * (base_mb(query_gpus(wildcards)) + size))


def dataset_memory(wildcards, attempt):
    """MB of the conversion: a source may be read whole, and decoded into as much again."""
    return int(attempt * (CPU_MB + 2 * images_mb(wildcards)))


def base_mb(gpu):
    return GPU_MB if gpu else CPU_MB


def weights_mb(wildcards):
    """Size of the file that a learner starts from, if it names one."""
    file = learners.checkpoint(STUDY.learners[wildcards.learner])
    return Path(file).stat().st_size / 1e6 if file else 0


def pool_shapes(wildcards):
    """Numbers and sizes of a dataset's images; None where the disk refuses to tell."""
    return shapes.of(STUDY, wildcards.dataset, Path(config["data"]))


def images_mb(wildcards):
    """Size of the dataset, converted or not."""
    found = pool_shapes(wildcards)
    return found.bytes / 1e6 if found else 1000 * config["memory_gb"]


def image_mb(wildcards):
    found = pool_shapes(wildcards)
    return images_mb(wildcards) / (found.train[0] + found.test[0]) if found else 0


def labelled(wildcards):
    """How many labels a round trains on."""
    return STUDY.start["size"] + int(wildcards.get("round", 0)) * STUDY.budget


def train_minutes(wildcards, attempt):
    """From the recipe's longest course: all epochs, or the least number of steps."""
    settings = STUDY.learners[wildcards.learner]
    images = max(
        settings["epochs"] * labelled(wildcards),
        settings["min_steps"] * settings["batch_size"],
    )
    return int(attempt * (15 + images / SLOWEST_IMAGES / 60))


def embed_minutes(wildcards, attempt):
    """From the bytes of images, once for every draw."""
    passes = views.samples(wildcards.view)
    return int(attempt * (15 + passes * images_mb(wildcards) / SLOWEST_MB / 60))


def query_minutes(wildcards, attempt):
    """An hour, and another for every million images."""
    found = pool_shapes(wildcards)
    return int(attempt * 60 * (1 + (found.train[0] if found else 0) / 1e6))


def dataset_minutes(wildcards, attempt):
    return 120 * attempt


def data_folder(wildcards, output):
    return config["data"]


def memory_gb(wildcards, output):
    return config["memory_gb"]


def labels_needed(wildcards, output):
    return STUDY.labels_needed


# Snakemake asks for the signature of each of these functions before every call, several times a job, and working it
# out takes a twentieth of a plan's time: this is where inspect.signature looks first.
for function in [value for value in globals().values() if inspect.isfunction(value)]:
    if function.__globals__ is globals():
        function.__signature__ = inspect.signature(function)
