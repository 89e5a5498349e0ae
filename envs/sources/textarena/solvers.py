"""The right action in TextArena games that can be solved in a few lines: `oracle()` of those games.

Each solver gets the game, between two turns, and returns a move in the game's own form. It reads hidden state of the game only if the
player has read enough to infer it. `Bandit` is the exception: its oracle is the arm that really is the best, so that the check can report
the reward of that arm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import permutations, product
from typing import Any


def solver(id_: str) -> Callable[[Any], str] | None:
    """The solver of this game, in any of its sizes and forms; None if there is none."""
    return SOLVERS.get(id_.partition("-v")[0])


def _guess_the_number(game: Any) -> str:
    """The middle of the numbers that all hints leave."""
    low, high = game.min_number, game.max_number
    for guess, hint in game.state.game_state["guess_history"]:
        low, high = (max(low, guess + 1), high) if hint == "higher" else (low, min(high, guess - 1))
    return f"[{(low + high) // 2}]"


def _three_card_monte(game: Any) -> str:
    """The place of the ball after the swaps, each of which was announced."""
    return f"[{game.ball_pos}]"


def _tower_of_hanoi(game: Any) -> str:
    """The first move of the one shortest way to bring all disks to C: each disk, from the largest down, has a tower to go to, and the
    smaller ones must first go to the third."""
    place = {disk: tower for tower, disks in game.state.game_state["towers"].items() for disk in disks}
    wanted, move = "C", ""
    for disk in sorted(place, reverse=True):
        if place[disk] != wanted:
            move = f"[{place[disk]} {wanted}]"
            (wanted,) = {"A", "B", "C"} - {place[disk], wanted}
    return move


def _frozen_lake(game: Any) -> str:
    """The first step of a shortest way around the holes."""
    grid, start, goal = (game.state.game_state[key] for key in ("grid", "player_pos", "goal_pos"))
    first: dict[tuple[int, int], str] = {goal: ""}
    ahead = [goal]
    for row, column in ahead:  # from the goal back, so that the step that reaches a field is the one to take from there
        for name, (down, right) in game.actions.items():
            before = row - down, column - right
            inside = all(0 <= at < game.size for at in before)
            if inside and before not in first and grid[before[0]][before[1]] != "H":
                first[before] = name
                ahead.append(before)
    return f"[{first[start]}]"


def _lights_out(game: Any) -> str:
    """One of the fewest presses. Those of the first row decide all others: each press below puts out the light above it."""
    size, grid = game.size, game.state.game_state["grid"]
    best: list[tuple[int, int]] | None = None
    for first in product((False, True), repeat=size):
        lights, row, presses = [list(line) for line in grid], list(first), []
        for r in range(size):
            for c in (c for c in range(size) if row[c]):
                presses.append((r, c))
                game._toggle_lights(lights, r, c)
            row = list(lights[r])
        if not any(row) and (best is None or len(presses) < len(best)):
            best = presses
    if not best:
        raise ValueError("these lights cannot be put out")
    return f"[{best[0][0]} {best[0][1]}]"


def _mastermind(game: Any) -> str:
    """The first code that agrees with every answer so far."""
    answers = [(tuple(entry["guess"]), (entry["black"], entry["white"])) for entry in game.state.game_state["history"]]
    digits = range(1, game.num_numbers + 1)
    codes: Iterable[tuple[int, ...]] = (
        product(digits, repeat=game.code_length) if game.duplicate_numbers else permutations(digits, game.code_length)
    )
    code = next(code for code in codes if all(_pegs(guess, code) == pegs for guess, pegs in answers))
    return f"[{' '.join(map(str, code))}]"


def _pegs(guess: Sequence[int], code: Sequence[int]) -> tuple[int, int]:
    black = sum(a == b for a, b in zip(guess, code, strict=True))
    return black, sum(min(guess.count(digit), code.count(digit)) for digit in set(guess)) - black


def _bandit(game: Any) -> str:
    truth = game.state.game_state["ground_truth"]
    return f"[{max(truth, key=truth.get)}]"


SOLVERS: dict[str, Callable[[Any], str]] = {
    "Bandit": _bandit,
    "FrozenLake": _frozen_lake,
    "GuessTheNumber": _guess_the_number,
    "LightsOut": _lights_out,
    "Mastermind": _mastermind,
    "ThreeCardMonte": _three_card_monte,
    "TowerOfHanoi": _tower_of_hanoi,
}
