"""The explicit form of a step, for loops that make the passes themselves."""

import torch

from braindecode_sam.optim._interrupts import Interruptible
from braindecode_sam.optim._norm_stats import HeldBuffers


class TwoSteps:
    """``first_step`` and ``second_step`` around the caller's second pass."""

    @torch.no_grad()
    def first_step(self, zero_grad=False):
        """Move the weights to w + epsilon, from the gradients at w.

        Parameters
        ----------
        zero_grad : bool, default=False
            Zero the gradients afterwards.

        Raises
        ------
        RuntimeError
            If ``second_step`` or ``restore`` has not followed the last call.
        """
        self._refuse_within_two_steps("first_step")
        with Interruptible():
            self._save()
            self._held_stats = HeldBuffers().__enter__()
            try:
                self._has_ascended = self._perturbs() and self._is_sharp()
                if self._has_ascended:
                    self._ascend()
            except BaseException:
                self._leave_two_steps()
                raise
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def second_step(self, zero_grad=False):
        """Return to w and let the base optimizer step on the present gradients.

        Parameters
        ----------
        zero_grad : bool, default=False
            Zero the gradients afterwards.

        Raises
        ------
        RuntimeError
            If ``first_step`` was not called before.
        """
        if self._held_stats is None:
            raise RuntimeError("second_step was called without a first_step before it.")
        self._leave_two_steps()
        with self._transaction.begin():
            self._mix()
            self._base_step()
        self._opt_called = True  # what a scheduler's wrapper of step() would set
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def restore(self):
        """Go back from w + epsilon to w without a step.

        For a two-step loop whose second pass failed. Does nothing elsewhere.
        """
        if self._held_stats is not None:
            self._leave_two_steps()

    def _reset_two_steps(self):
        self._held_stats = None
        self._has_ascended = False

    def _leave_two_steps(self):
        with Interruptible():
            try:
                self._restore()
            finally:
                held, self._held_stats = self._held_stats, None
                held.__exit__()

    def _refuse_within_two_steps(self, name):
        if self._held_stats is not None:
            raise RuntimeError(
                f"{name} was called between first_step and second_step. Call"
                " second_step() first, or restore() to go back to the weights before."
            )
