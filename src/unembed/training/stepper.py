"""One step of learning, whatever is learnt: draw, score, backward, clip, optimizer, average.

Contents: `make_task` (what a recipe learns), `Stepper`.

Nothing on the device is read by the host here: losses stay tensors until a report asks for them, a step whose gradient
is not finite is left out on the device itself, and the learning rate is the host's own number.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unembed.errors import InputError, RecipeError, UnembedError
from unembed.training.memory import out_of_memory
from unembed.training.optimizer import CombinedOptimizer, Ema, make_optimizer
from unembed.training.recipes.recipe import Recipe
from unembed.training.tasks.task import Task

_log = logging.getLogger(__name__)


def make_task(
    recipe: Recipe,
    device: torch.device,
    known: Mapping[str, Any] | None = None,
    init_from: str | Path | None = None,
    box: float = 0.0,
) -> Task:
    """Open the data and build the network of a recipe.

    Args:
        recipe: its `task` decides.
        device: where the network goes.
        known: facts of the state that a run continues from, empty for a new run; None for an estimate, for which
            nothing is written.
        init_from: what weights start from: a checkpoint, or the file of a student or corrector.
        box: time box of the session in seconds, 0 for none; where data is made first, for half of it at most.

    Raises:
        RecipeError, DataError, CheckpointError: see the tasks.
    """
    if recipe.task == "student":
        from unembed.training.tasks.student_task import make_student_task

        return make_student_task(recipe, device, known, init_from, box)
    if recipe.task == "corrector":
        from unembed.training.tasks.corrector_task import make_corrector_task

        return make_corrector_task(recipe, device, known, init_from, box)
    from unembed.training.tasks.denoiser_task import DenoiserTask
    from unembed.training.tasks.device_task import DeviceTask, refuse
    from unembed.training.tasks.prepare import prepare

    if recipe.data.buckets:
        refuse(recipe, device)
    prepared = prepare(recipe, device, known, init_from)
    if not recipe.data.buckets:
        return DenoiserTask(recipe, prepared, device)
    if prepared.pack is None:
        raise RecipeError(
            "data.buckets keeps everything on the device, which needs texts as packs.",
            "Make them with `unembed pack`, or set data.buckets = [].",
        )
    return DeviceTask(recipe, prepared, device)


class Stepper:
    """Makes steps.

    Args:
        task: what is learnt.
        recipe: its optimizer, and the seed.

    Attributes:
        optimizer: of the task's model.
        ema: average of its weights.
        generator: of masks and shortlists, on the CPU.
        left_out: () how many steps were left out because their gradient was not finite.
    """

    def __init__(self, task: Task, recipe: Recipe) -> None:
        self.task, self.part = task, recipe.optimizer
        self.optimizer = make_optimizer(task.model, self.part, task.precision)
        self.ema = Ema(task.model, self.part.ema)
        self.generator = torch.Generator().manual_seed(recipe.run.seed)
        self._parameters = [p for p in task.model.parameters() if p.requires_grad]
        self.device = self._parameters[0].device
        self.left_out = torch.zeros((), device=self.device)

    def warm_up(self) -> None:
        """Compile what is compiled, with a step that changes nothing."""
        state = torch.get_rng_state()
        try:
            self.task.warm_up()
        except Exception as error:
            self._lighten(error)
        self.optimizer.zero_grad(set_to_none=True)
        torch.set_rng_state(state)
        self.wait()

    def wait(self) -> None:
        """Wait until the device has done all it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def step(self, number: int, rate: float) -> tuple[Tensor, int]:
        """Make one step.

        Args:
            number: 0 for the first of the run; the average begins fast.
            rate: learning rate; a group's own is this times its `scale`.

        Returns:
            The loss (), which is NaN or infinite where the step was left out, and the number of texts.

        Raises:
            InputError: the smallest batch does not fit into memory.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("scale", 1.0)
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            try:
                loss, texts = self._gradient()
                break
            except Exception as error:
                self._lighten(error)
        self._update()
        self.ema.update(self.task.model, number)
        return loss, texts

    def _gradient(self) -> tuple[Tensor, int]:
        loss = torch.zeros((), device=self.device)
        texts = 0
        for _ in range(self.part.accumulate):
            for part in self.task.draw():
                value = self.task.score(part, self.generator) * (part.share / self.part.accumulate)
                value.backward()  # type: ignore[no-untyped-call]
                loss += value.detach()
                texts += part.texts
        return loss, texts

    def _lighten(self, error: Exception) -> None:
        """Continue with less after a failure that less may help, or raise."""
        if isinstance(error, UnembedError):
            raise error
        changed = self.task.lighten(error)
        short = str(error).splitlines()[0][:200] if str(error) else ""
        if not changed:
            if out_of_memory(error):
                raise InputError(
                    f"A batch does not fit into memory ({type(error).__name__}: {short.rstrip('.')}).",
                    "Set a smaller data.batch_size, or a smaller model.",
                ) from error
            raise error
        _log.warning("%s (%s: %s)", changed, type(error).__name__, short)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _update(self) -> None:
        grads = [p.grad for p in self._parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads)
        fine = torch.isfinite(norm)
        self.left_out += ~fine
        if self.device.type == "cpu" and not bool(fine):  # a read costs nothing here
            return
        torch._foreach_mul_(grads, (self.part.clip / (norm + 1e-6)).clamp_max(1.0))
        if self.device.type != "cpu":
            self._guard(~fine)
        self.optimizer.step()

    def _guard(self, wrong: Tensor) -> None:
        """Let a fused AdamW and Muon leave out this step, on the device."""
        parts: list[Any] = self.optimizer.parts if isinstance(self.optimizer, CombinedOptimizer) else [self.optimizer]
        for part in parts:
            part.found_inf = wrong.float().reshape(())
