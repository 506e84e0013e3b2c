"""Multistep solvers: a step is one linear combination of x_t and the latest predictions of x_0.

Row i of a solver's table has the coefficients of step i: of x_i, and of the predictions of x_0 at
step i, at the step before, and so on. They do not depend on x, so they are NumPy tables. The
solvers share the symbols of the [DPM-Solver++ paper](https://arxiv.org/abs/2211.01095), section 3:
at step i, x_i = a_i x_0 + s_i eps, and l_i = log(a_i / s_i). DDIM is the first-order solver.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from anchor_jax.diffusion.schedule import ScheduleConfig, Step, alphas_cumprod, sampling_steps
from anchor_jax.shapes import Array

Solver = Literal["ddim", "dpm++", "unipc"]
Spacing = Literal["leading", "trailing"]
SOLVERS: tuple[Solver, ...] = ("ddim", "dpm++", "unipc")
SPACINGS: tuple[Spacing, ...] = ("leading", "trailing")


def solver_steps(
    config: ScheduleConfig, num_steps: int, solver: Solver = "ddim", spacing: Spacing = "leading"
) -> list[Step]:
    """List the steps of a solver, noisiest first, with the timesteps that diffusers takes.

    "leading" is the published spacing. Its first timestep is far from the last of training if there
    are few steps, although sampling starts from pure noise. "trailing" starts at the last timestep
    of training: table 2 of https://arxiv.org/abs/2305.08891. The last step of a multistep solver
    leads to alpha-bar 1 (`final_sigmas_type="zero"` in diffusers), that of DDIM to where the config
    says.

    >>> [step.timestep for step in solver_steps(ScheduleConfig(), 4)]
    [751, 501, 251, 1]
    >>> [step.timestep for step in solver_steps(ScheduleConfig(), 4, "unipc")]
    [801, 601, 401, 201]
    >>> [step.timestep for step in solver_steps(ScheduleConfig(), 4, "unipc", "trailing")]
    [999, 749, 499, 249]

    Raises:
        ValueError: if `num_steps` is not within 1 .. `most_steps`.
    """
    total, most = config.num_train_timesteps, most_steps(config, solver, spacing)
    if not 1 <= num_steps <= most:
        raise ValueError(f"num_steps is {num_steps}, not 1 to {most}")
    leading = sampling_steps(config, num_steps + total - most)
    if spacing == "leading" and solver == "ddim":
        return leading
    timesteps = [step.timestep for step in leading[:num_steps]]
    if spacing == "trailing":
        timesteps = [round(total - i * total / num_steps) - 1 for i in range(num_steps)]
    alphas = [float(alpha) for alpha in alphas_cumprod(config)[timesteps]]
    final = leading[-1].alpha_prev if solver == "ddim" else 1.0
    return list(map(Step, timesteps, alphas, [*alphas[1:], final]))


def most_steps(config: ScheduleConfig, solver: Solver, spacing: Spacing) -> int:
    """Return the largest number of steps. A multistep solver with leading timesteps divides those
    of training into one part more than it has steps, and leaves the last out, as in diffusers."""
    left_out = spacing == "leading" and solver != "ddim"
    return config.num_train_timesteps - left_out


def solver_table(steps: Sequence[Step], solver: Solver) -> np.ndarray | None:
    """Compute the coefficients of a multistep solver, float32 (steps, 3 or 4); None for DDIM, which
    has a formula of its own, `ddim_step`."""
    if solver == "ddim":
        return None
    alphas = np.array([step.alpha for step in steps] + [steps[-1].alpha_prev], np.float64)
    table = dpm_solver_pp_2m(alphas) if solver == "dpm++" else unipc_2(alphas)
    return table.astype(np.float32)


def multistep(x: Array, clean: Array, coefficients: Array) -> Array:
    """Take a step.

    Args:
        x: x_i (...).
        clean: predictions of x_0, newest first, (k, ...).
        coefficients: row i of the solver's table, (1 + k,).
    """
    first, *others = coefficients
    return first * x + sum(c * x0 for c, x0 in zip(others, clean, strict=True))


def dpm_solver_pp_2m(alphas: np.ndarray) -> np.ndarray:
    """Compute the table of DPM-Solver++(2M), (steps, 3): algorithm 2 of
    https://arxiv.org/abs/2211.01095.

    The first and the last step have order 1, as in diffusers.

    Args:
        alphas: alpha-bar at each step and after the last, (steps + 1,); a^2 in the paper.
    """
    return np.stack([_predictor(alphas, i, order) for i, order in enumerate(_orders(alphas))])


def unipc_2(alphas: np.ndarray) -> np.ndarray:
    """Compute the table of UniPC of order 2 with B_2(h) = e^h - 1, (steps, 4): algorithm 8 of
    https://arxiv.org/abs/2302.04867 (the version that predicts x_0).

    Its predictor, UniP-2, is DPM-Solver++(2M). When x_0 is predicted at the new x, the corrector
    UniC changes that x before the next step.

    Args:
        alphas: as for `dpm_solver_pp_2m`.
    """
    orders, rows = _orders(alphas), []
    for i, order in enumerate(orders):
        row = np.pad(_predictor(alphas, i, order), (0, 1))
        if i > 0:  # the correction is added to x_i, so it is multiplied as x_i is
            row[1:] += row[0] * _corrector(alphas, i, orders[i - 1])
        rows.append(row)
    return np.stack(rows)


def _orders(alphas: np.ndarray) -> list[int]:
    """Return the order of each step."""
    last = len(alphas) - 2
    return [1 if i in (0, last) else 2 for i in range(last + 1)]


def _predictor(alphas: np.ndarray, i: int, order: int) -> np.ndarray:
    """Return the coefficients of x_i and of the predictions at the steps i and i - 1."""
    ratio = np.sqrt((1 - alphas[i + 1]) / (1 - alphas[i]))
    gain = _gain(alphas, i)
    if order == 1:
        return np.array([ratio, gain, 0.0])
    share = 0.5 * _log_snr(alphas, i, i + 1) / _log_snr(alphas, i - 1, i)  # 1 / (2 r) of the paper
    return np.array([ratio, gain * (1 + share), -gain * share])


def _corrector(alphas: np.ndarray, i: int, order: int) -> np.ndarray:
    """Return the coefficients of the predictions at the steps i, i - 1 and i - 2 in what UniC of an
    order adds to x_i: the corrected x_i minus the predicted one, which has the same order."""
    gain = _gain(alphas, i - 1)
    if order == 1:
        return gain * np.array([0.5, -0.5, 0.0])
    h = _log_snr(alphas, i - 1, i)
    r = -_log_snr(alphas, i - 2, i - 1) / h
    # Equation (5) of the UniPC paper: R(h) a = phi(h) / B(h), in terms of -h.
    base = np.expm1(-h)
    phi_1 = base / -h - 1
    phi_2 = phi_1 / -h - 0.5
    before, now = np.linalg.solve([[1, 1], [r, 1]], [phi_1 / base, 2 * phi_2 / base])
    before = (before - 0.5) / r  # the predictor has 1/2
    return gain * np.array([now, -now - before, before])


def _gain(alphas: np.ndarray, i: int) -> float:
    """Return a_{i+1} (1 - e^-h), h = l_{i+1} - l_i, without logarithms, since h may be infinite."""
    ratio = np.sqrt((1 - alphas[i + 1]) / (1 - alphas[i]))
    return np.sqrt(alphas[i + 1]) - ratio * np.sqrt(alphas[i])


def _log_snr(alphas: np.ndarray, i: int, j: int) -> float:
    """Return l_j - l_i."""
    a, b = alphas[i], alphas[j]
    return 0.5 * np.log(b * (1 - a) / (a * (1 - b)))
