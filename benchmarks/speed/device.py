"""The device path beside the exact one: texts a second on this machine, and what a step asks of a GPU.

    python -m benchmarks.speed.device PACK --held-out PACK --out docs/results/device.json
    python -m benchmarks.speed.device PACK --held-out PACK --device cuda

Both paths take their steps by the loop's own stepper, at the shape of recipes/default.toml, from the same pack, with
the encoder in the loop. `share` is the part of the measured matrix-multiply rate that the arithmetic of the task says
is used: the exact path counts what it needs, the device path what it computes, padding and encoder included.

Where there is no GPU, the operations of a step of recipes/gpu.toml are counted on tensors without values: as they are
written, views left out, so that each would be a launch. Those of the three compiled functions are given apart, for a
compiler makes a few of each call. With `--device cuda` launches are counted by torch's profiler.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.common import emit, machine
from unembed.files import write_json
from unembed.training.device import kernels as head
from unembed.training.device.corpus import BatchLoader
from unembed.training.recipes.recipe import Recipe
from unembed.training.stepper import Stepper, make_task
from unembed.training.tasks.device_task import DeviceTask

ROOT = Path(__file__).resolve().parents[2]
BUCKETS = "data.buckets=[8, 16, 24, 32]"
_NO_KERNEL = ("empty", "detach", "view", "_unsafe_view", "reshape", "alias", "lift_fresh", "_local_scalar_dense")


class Launches(TorchDispatchMode):
    """Counts operations that move or make values: all but views and bare memory."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count, then do it."""
        name = func.overloadpacket.__name__
        self.count += func.namespace == "aten" and not (func.is_view or name.startswith(_NO_KERNEL))
        return func(*args, **(kwargs or {}))


def _clock(device: str) -> float:
    """Seconds: on a CPU those that this process was given, which other work on the machine does not lengthen much."""
    return time.process_time() if device == "cpu" else time.perf_counter()


def matmul_rate(precision: str, device: str, seconds: float) -> float:
    """GFLOP/s of a plain product of 2048 x 2048 matrices."""
    a = torch.randn(2048, 2048, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    (a @ a).sum().item()
    count, begun = 0, _clock(device)
    while _clock(device) - begun < seconds:
        for _ in range(1 if device == "cpu" else 200):
            product = a @ a
            count += 1
        product.sum().item()
    return 2.0 * 2048**3 * count / (_clock(device) - begun) / 1e9


def pace(recipe: Recipe, device: str, steps: int, warmup: int, matmul_seconds: float) -> dict[str, Any]:
    """Texts a second of one path, and its share of the rate of a plain matrix product."""
    task = make_task(recipe, torch.device(device))
    stepper = Stepper(task, recipe)
    stepper.warm_up()
    for number in range(warmup):
        stepper.step(number, 1e-4)
    stepper.wait()
    task.arithmetic()
    texts, begun = 0, _clock(device)
    for number in range(steps):
        texts += stepper.step(warmup + number, 1e-4)[1]
    stepper.wait()
    seconds, counted = _clock(device) - begun, task.arithmetic()
    gflops, rate = counted["operations"] / seconds / 1e9, matmul_rate(task.precision, device, matmul_seconds)
    return {
        "texts_per_second": float(f"{texts / seconds:.4g}"),
        "texts_per_step": round(texts / steps, 1),
        "positions_per_text": round(counted["positions"] / texts, 1),
        "gflop_per_text": float(f"{counted['operations'] / texts / 1e9:.3g}"),
        "gflops": float(f"{gflops:.4g}"),
        "matmul_gflops": float(f"{rate:.4g}"),
        "share": float(f"{gflops / rate:.3g}"),
        "precision": task.precision,
    }


def counted(recipe: Recipe) -> dict[str, Any]:
    """Operations of a step of the widest bucket on tensors without values, apart for the compiled functions."""
    found, layers = {}, recipe.model.layers
    for depth in (layers, layers // 2):
        shape = dataclasses.replace(recipe.model, layers=depth)
        few = dataclasses.replace(recipe.data, batch_size=16)  # what is fitted before the steps is embedded in batches
        found[depth] = _count(dataclasses.replace(recipe, model=shape, data=few), recipe.data.batch_size)
    whole, half = found[layers], found[layers // 2]
    blocks = round((whole["network"] - half["network"]) * layers / (layers - layers // 2))
    return {
        "texts": whole["texts"],
        "layers": layers,
        "operations": whole["network"] + whole["update"],
        "blocks": {"operations": blocks, "calls": 2 * layers},
        "head": {"operations": whole["head"], "calls": whole["chunks"]},
        "encoder": {"operations": whole["encoder"], "calls": whole["encoder_layers"]},
        "update": whole["update"],
        "between": whole["network"] - blocks - whole["head"] - whole["encoder"],
    }


def _count(recipe: Recipe, texts: int) -> dict[str, int]:
    task = make_task(recipe, torch.device("cpu"))
    assert isinstance(task, DeviceTask)
    stepper = Stepper(task, recipe)
    kernels, inside = task.resident.kernels, {"head": 0, "chunks": 0, "encoder": 0, "encoder_layers": 0}
    plain_chunk, plain_layer = kernels.chunk, kernels.layer

    def chunk(*args: Any) -> Any:
        before, out = mode.count, plain_chunk(*args)
        inside["head"] += mode.count - before
        inside["chunks"] += 1
        return out

    def layer(*args: Any) -> Any:
        before, out = mode.count, plain_layer(*args)
        inside["encoder"] += mode.count - before
        inside["encoder_layers"] += 1
        return out

    batches = BatchLoader(task.resident.corpus, task.resident.buckets, texts, recipe.data.crop, 0, apart=False)
    batch = batches.examples()[-1]
    _ = task.loss.evidence  # made once a run
    kernels.chunk, kernels.layer = chunk, layer
    head._CELLS["cpu"] = head._CELLS["cuda"]  # as many chunks as a GPU would have
    with FakeTensorMode(allow_non_fake_inputs=True), Launches() as mode:
        ids, *rest = task.resident.of(batch)
        task.loss(ids, batch.length, *rest).backward()
        network = mode.count
        grads = [p.grad for p in task.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads)
        torch._foreach_mul_(grads, (1.0 / (norm + 1e-6)).clamp_max(1.0))
        stepper._guard(~torch.isfinite(norm))
        stepper.optimizer.step()
        stepper.ema.update(task.model, 0)
    return {"network": network, "update": mode.count - network, "texts": len(batch.rows), **inside}


def launched(recipe: Recipe) -> dict[str, Any]:
    """Launches of a warm step on a GPU, by the profiler."""
    task = make_task(recipe, torch.device("cuda"))
    stepper = Stepper(task, recipe)
    stepper.warm_up()
    for number in range(8):
        stepper.step(number, 1e-4)
    stepper.wait()
    steps = 8
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    ) as p:
        for number in range(steps):
            stepper.step(8 + number, 1e-4)
        stepper.wait()
    calls = {event.key: event.count for event in p.key_averages()}
    return {
        "launches": sum(n for key, n in calls.items() if "LaunchKernel" in key) / steps,
        "waits": sum(n for key, n in calls.items() if "Synchronize" in key) / steps,
    }


def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", help="with the encoder")
    parser.add_argument("--held-out", required=True, metavar="PACK")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=4)
    parser.add_argument("--fitted", type=int, default=2000, help="texts that closed-form parts are fitted on")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="A.B=C", help="of both recipes")
    parser.add_argument("--matmul-seconds", type=float, default=1.0)
    parser.add_argument("--out", metavar="FILE")
    args = parser.parse_args()
    own = [f"data.shards={args.pack}", f"validation.shards={args.held_out}", f"data.fitted={args.fitted}"]
    own += ["validation.texts=64", "validation.decoded=4", "data.exclude_sources=[]"]
    default = ROOT / "recipes" / "default.toml", [*own, "run.compile=auto", *args.overrides]
    timing = args.device, args.steps, args.warmup, args.matmul_seconds
    result = {
        "benchmark": "device",
        "device": args.device,
        "exact": pace(Recipe.load(*default), *timing),
        "on_device": pace(Recipe.load(default[0], [*default[1], BUCKETS]), *timing),
        "overrides": args.overrides,
    }
    gpu = Recipe.load(ROOT / "recipes" / "gpu.toml", [*own, *args.overrides])
    if args.device == "cpu":
        result["counted"] = counted(gpu)
    else:
        result["gpu"] = pace(gpu, *timing) | launched(gpu)
    result["machine"] = machine()
    if args.out:
        write_json(args.out, result)
    emit(result)


if __name__ == "__main__":
    main()
