"""A query must not die, wait or go wrong on a GPU after a night of training: tested without one, by its rules.

On a machine with a GPU test_strategies.py runs every strategy on the real one instead.
"""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
import torch
from emulated_gpu import GPU, SWITCHES, Refused, emulated_gpu
from test_strategies import VARIANTS, arrays

from allround.kernels import repeat
from allround.learners.model import Classifier
from allround.pool import Pool
from allround.strategies import describe, select

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU, where test_strategies.py runs the strategies"),
    pytest.mark.skipif(
        not all(hasattr(torch._C, name) for name in SWITCHES), reason="this PyTorch cannot pretend to have a GPU"
    ),
]

# Adversarial examples need the autograd engine, which asks the device itself and cannot be emulated.
EMULATED = [(name, hyperparameters) for name, hyperparameters in VARIANTS if "images" not in describe(name).needs]
EVERY = pytest.mark.parametrize(
    "place", range(len(EMULATED)), ids=["-".join([name, *map(str, more.values())]) for name, more in EMULATED]
)


@pytest.fixture(autouse=True)
def one_thread():
    """Float sums of the CPU depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@EVERY
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_query_lives_on_a_gpu_and_picks_there_what_it_picks_on_a_cpu(place, precision):
    if precision == "float16" and "outputs" not in describe(EMULATED[place][0]).needs:
        pytest.skip("reads no features")
    _, budget, sure = size(place)
    here, there, _ = queried(place, budget, precision)
    assert there[:sure] == here[:sure]


@EVERY
def test_a_gpu_is_not_kept_waiting_at_every_pick(place):
    _, budget, _ = size(place)
    few, many = (queried(place, picks, "float32")[2] for picks in (budget // 2, budget))
    more = many - few  # k-means and k-centre wait once a pass, of which there are few more for twice the picks
    assert more.total() < budget // 4, f"{budget // 2} picks more, and waits for the GPU more, by line: {more}"


def size(place: int) -> tuple[dict, int, int]:
    """Arrays, budget, and picks before rounding may decide between equals. BatchBALD's outcomes take long on a CPU."""
    if EMULATED[place][0] == "batch_bald":
        return arrays(150, d=16, c=4), 20, 10
    return arrays(700, d=16, c=6), 60, 60


@cache
def queried(place: int, budget: int, precision: str) -> tuple[list[int], list[int], object]:
    """Picks of the CPU, picks of the GPU, and where the GPU was waited for."""
    (name, hyperparameters), data = EMULATED[place], size(place)[0]
    data["features"] = data["features"].astype(precision)
    here = select(name, Pool.from_arrays(**data), budget=budget, **hyperparameters)
    with emulated_gpu() as gpu:
        data["model"] = moved(data["model"])
        gpu.waits.clear()
        there = select(name, Pool.from_arrays(**data, device=str(GPU)), budget=budget, **hyperparameters)
    return here.tolist(), there.tolist(), gpu.waits


def moved(model: Classifier) -> Classifier:
    """The model on the emulated GPU, where model.to() would only change a tensor's data."""
    model = copy.deepcopy(model)
    for module in model.modules():
        for name, parameter in module._parameters.items():
            module._parameters[name] = parameter.detach().to(GPU)
    return model


# --- the emulator itself: it has to notice what it is there for -------------------------------------------------------


def host_reads_a_value(x):
    x.add_(x.amax().item())


def host_decides(x):
    if x[0] > 0:
        x.add_(1)


def index_by_a_mask(x):
    x.copy_(x[x > -1])


def assignment_by_a_mask(x):
    x[x > 0] = 1


def index_from_the_host(x):
    x.copy_(x[torch.tensor([2, 1, 0, 3])])


def value_from_the_host(x):
    x.add_(torch.tensor([1.0, 2, 3, 4], device=x.device))


def values_from_numpy(x):
    x.copy_(torch.from_numpy(np.ones(4, dtype=np.float32)))


def shape_that_depends_on_values(x):
    x.add_(x.nonzero().shape[0])


@pytest.mark.parametrize(
    "step",
    [
        host_reads_a_value,
        host_decides,
        index_by_a_mask,
        assignment_by_a_mask,
        index_from_the_host,
        value_from_the_host,
        values_from_numpy,
        shape_that_depends_on_values,
    ],
)
def test_a_step_that_a_cuda_graph_cannot_record_is_refused_where_it_would_be_recorded(step):
    with emulated_gpu() as gpu:
        x = torch.arange(4.0, device=GPU)
        step(x)  # is slow, not wrong
        assert gpu.waits
        with pytest.raises(Refused, match=r"CUDA graph records at test_gpu_rules\.py"):
            repeat.repeat(lambda: step(x), [x], times=repeat.WORTH)


REFUSED = {
    "tensors on GPU and CPU": lambda x: x + torch.ones(4),
    "index_select of tensors on GPU and CPU": lambda x: x.index_select(0, torch.tensor([1])),
    "generator of the CPU": lambda x: torch.rand(4, device=x.device, generator=torch.Generator()),
    "uniform_ on the GPU with a generator of the CPU": lambda x: x.uniform_(generator=torch.Generator()),
    "cumsum of floats": lambda x: x.cumsum(0),
    "index_add_ of floats": lambda x: x.index_add_(0, torch.zeros(4, dtype=torch.int64, device=x.device), x.clone()),
    "scatter_add_ of floats": lambda x: x.scatter_add_(0, torch.zeros(4, dtype=torch.int64, device=x.device), x + 1),
    "index_put_ of floats": lambda x: x.index_put_((torch.zeros(4, dtype=torch.int64, device=x.device),), x + 1, True),
    "mm to torch.float16": lambda x: x.half()[None] @ x.half()[:, None],
    "mm to torch.bfloat16": lambda x: x.bfloat16()[None] @ x.bfloat16()[:, None],
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_fails_or_changes_from_run_to_run_on_a_gpu_is_refused(fault):
    with emulated_gpu(), pytest.raises(Refused, match=fault):
        REFUSED[fault](torch.arange(4.0, device=GPU))


def test_what_is_right_on_a_gpu_is_allowed():
    with emulated_gpu() as gpu:
        x = torch.arange(6.0, device=GPU).view(2, 3)
        zero = torch.zeros(2, 3, dtype=torch.int64, device=GPU)
        x = x.cumsum(1).scatter_reduce_(1, zero, x + 1, "amax") + x.sort(stable=True).values[:, :1] * torch.tensor(2.0)
        counts = zero[0].index_add_(0, zero[1], zero[0] + 1)  # whole numbers add up to the same in every order
        product = torch.mm(x.half(), x.half().T, out_dtype=torch.float32)
        assert gpu.waits.total() == 0
        assert counts.tolist() == [3, 0, 0]
        assert product.shape == (2, 2)
        assert gpu.waits.total() == 1


def test_every_pick_that_waits_is_counted_under_its_line():
    with emulated_gpu() as gpu:
        x = torch.arange(30.0, device=GPU)
        for _ in range(30):
            x[int(x.argmax())] = -1
    assert len(gpu.waits) == 1
    assert gpu.waits.total() >= 30


@pytest.mark.parametrize("steps", [repeat.WORTH, 3 * repeat.WORTH])
def test_a_recorded_step_repeats_itself_and_its_warm_up_leaves_no_trace(steps):
    def fibonacci(a, b):
        a.copy_(a + b)  # a new tensor, which every replay has to fill anew
        a, b = b.view(1), a.squeeze()
        a.copy_(b - a)

    with emulated_gpu() as gpu:
        a, b = torch.zeros(1, dtype=torch.int64, device=GPU), torch.ones(1, dtype=torch.int64, device=GPU)
        repeat.repeat(lambda: fibonacci(a, b), [a, b], times=steps)
        assert gpu.waits.total() == 1
        there = (a.item(), b.item())
    a, b = torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.int64)
    repeat.repeat(lambda: fibonacci(a, b), [a, b], times=steps)
    assert there == (a.item(), b.item())


def test_a_step_that_counts_in_python_or_keeps_state_to_itself_goes_wrong_as_it_would_on_a_gpu():
    with emulated_gpu():
        x, hidden, count = torch.zeros(1, device=GPU), torch.zeros(1, device=GPU), [0]

        def counts_in_python():
            count[0] += 1
            x.add_(count[0])

        repeat.repeat(counts_in_python, [x], times=40)
        assert x.item() == 40 * 4  # the value of the one step that was recorded, after 3 to warm up

        x.zero_()

        def keeps_state_to_itself():
            hidden.add_(1)
            x.copy_(hidden)

        repeat.repeat(keeps_state_to_itself, [x], times=40)
        assert x.item() > 40


def test_other_tests_of_the_process_never_notice():
    names = ("_lazy_init", "device", "synchronize", "mem_get_info", "memory_reserved", "memory_allocated")
    before = [getattr(torch.cuda, name) for name in names] + [repeat._capture, torch._C._only_lift_cpu_tensors()]
    with pytest.raises(Refused), emulated_gpu():
        left = torch.ones(4, device=GPU)
        _ = left + torch.ones(4)
    after = [getattr(torch.cuda, name) for name in names] + [repeat._capture, torch._C._only_lift_cpu_tensors()]
    assert after == before
    assert not torch.cuda.is_initialized()
    with pytest.raises(Refused, match="outlived"):
        left + 1
    with pytest.raises((RuntimeError, AssertionError)):
        torch.ones(4, device=GPU)
