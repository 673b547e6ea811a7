"""How `top` looks: each part, in windows wide and narrow."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from llm_backend.cli.snapshot import Rate, Snapshot
from llm_backend.cli.top_view import Scene

GIB = 1024


def model(name: str, state: str = "stopped", **fields: Any) -> dict[str, Any]:
    residency = "awake" if state == "awake" else "stopped"
    plain = {"id": name, "state": state, "residency": residency, "inflight": 0, "waiting": 0}
    return {**plain, "available": True, "memory_mib": {}, **fields}


MODELS = [
    model("qwen-14b", "awake", inflight=3, memory_mib={"gpu0": 10 * GIB}),
    model("qwen-vl", "asleep", residency="asleep-1", memory_mib={"gpu0": GIB}, waiting=2),
    model("broken", "failed", reason="It exited with status 1."),
    model("boxed", available=False, unavailable_reason="needs Docker"),
]
QUEUE = {"length": 2, "limit": 512, "by_model": {"qwen-vl": 2}, "wait_s": {"qwen-vl": 12.4}}
SWITCH = {
    "from": "qwen-14b",
    "to": "qwen-vl",
    "step": "load",
    "elapsed_s": 10.0,
    "estimate_s": 30.0,
    "progress": {"text": "loading weights", "fraction": 0.9},
}
DEVICE = {"name": "RTX", "total_mib": 16 * GIB, "free_mib": 4 * GIB, "foreign_mib": GIB}
PAST = {
    "from": "qwen-vl",
    "to": "qwen-14b",
    "rung": "asleep-1",
    "outcome": "ok",
    "began_at": "2026-05-04T10:00:00.000+00:00",
    "seconds": 3.21,
    "estimate_s": 2.5,
}


def scene(lost_s: float | None = None, age_s: float = 0.0, **status: Any) -> Scene:
    snapshot = Snapshot(
        {"models": MODELS, "queue": QUEUE, "switch": None, "leases": [], **status},
        {
            "status": "ok",
            "gateway": {"version": "1.2.3", "uptime_s": 3000},
            "devices": {"gpu0": DEVICE},
            "unwatched_devices": ["gpu1"],
        },
        {"switches": [PAST]},
        {},
        at=0.0,
    )
    return Scene(
        "http://here",
        "compose",
        snapshot,
        {"qwen-14b": Rate(1.5, 812.0)},
        age_s,
        {"stop": 1.25, "memory": 0.1},
        lost_s,
        "it does not answer.",
    )


def drawn(what: Scene, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width, record=True, highlight=False, markup=False)
    console.print(what)
    return console.export_text()


def line(text: str, beginning: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(beginning))


def test_who_it_is_and_how_it_does() -> None:
    assert drawn(scene()).startswith("llm-backend 1.2.3, http://here, compose, up 50 min, ok\n")


def test_who_holds_the_memory() -> None:
    text = drawn(scene())
    bar = line(text, "gpu0").removeprefix("gpu0  ").strip()
    assert (bar.count("█"), bar.count("·")) == (30, 10), "12 of 16 GiB in 40 columns"
    told = line(text, "      qwen-14b")
    assert told.strip() == (
        "qwen-14b 10.0 GiB, qwen-vl 1.0 GiB, others 1.0 GiB, free 4.0 GiB of 16.0 GiB"
    )
    assert "gpu1  its memory cannot be read" in text


def test_memory_of_nobody_knows_whom() -> None:
    unknown = [model("a", "awake", memory_mib={"gpu0": 0})]
    told = drawn(scene(models=unknown))
    assert "      used 12.0 GiB, free 4.0 GiB of 16.0 GiB" in told


def test_an_engine_is_not_said_to_hold_more_than_is_used() -> None:
    greedy = [model("a", "awake", memory_mib={"gpu0": 15 * GIB})]
    assert "a 11.0 GiB, others 1.0 GiB, free 4.0 GiB" in drawn(scene(models=greedy))


def test_a_lease() -> None:
    lease = {"device": "gpu0", "mib": None, "expires_in_s": 600, "reason": "ComfyUI"}
    text = drawn(scene(leases=[lease, {**lease, "device": "gpu1"}]))
    assert text.count("leased: all for 10 min more: ComfyUI") == 1


def test_the_models() -> None:
    text = drawn(scene())
    heading = line(text, "MODEL").split()
    assert heading == [
        "MODEL",
        "STATE",
        "RUNS",
        "WAITS",
        "REQ/S",
        "TOK/S",
        "WAIT",
        "MEMORY",
        "NOTE",
    ]
    assert line(text, "qwen-14b").split() == [
        "qwen-14b",
        "awake",
        "3",
        "-",
        "1.5",
        "812",
        "10.0",
        "GiB",
    ]
    assert line(text, "qwen-vl").split()[:7] == ["qwen-vl", "asleep-1", "-", "2", "-", "-", "12"]
    assert line(text, "broken").split()[1] == "failed"
    assert line(text, "broken").endswith("It exited with status 1.")
    assert "not here" in line(text, "boxed")


def test_the_queue_with_what_a_newcomer_has_to_expect() -> None:
    assert "Queue   2 of 512: 2 for qwen-vl (about 12 s)" in drawn(scene())
    assert "Queue" not in drawn(scene(queue={"length": 0, "limit": 512}))


def test_the_running_switch_goes_on_between_two_answers() -> None:
    text = drawn(scene(switch=SWITCH, age_s=10.0))
    told = "qwen-14b to qwen-vl: loading weights, for 20 s, about 20 s left"
    assert line(text, "Switch").removeprefix("Switch  ").strip() == told
    bar = next(x for x in text.splitlines() if "━" in x)
    assert (bar.count("━"), bar.count("─"), bar.strip()[-3:]) == (20, 20, "50%")
    assert "        done: stop 1.2 s, memory 0.1 s" in text


@pytest.mark.parametrize(
    ("switch", "share"),
    [
        ({**SWITCH, "estimate_s": None}, "90%"),
        ({**SWITCH, "estimate_s": 0.0}, "99%"),
        ({**SWITCH, "elapsed_s": None, "estimate_s": 5.0}, "0%"),
    ],
)
def test_how_far_it_is(switch: dict[str, Any], share: str) -> None:
    assert f" {share}\n" in drawn(scene(switch=switch)).replace("  \n", "\n").replace(" \n", "\n")


def test_a_switch_of_which_nobody_knows_how_far_it_is() -> None:
    told = {**SWITCH, "from": None, "estimate_s": None, "progress": None}
    text = drawn(scene(switch=told))
    assert "Switch  qwen-vl: load, for 10 s" in text
    assert "━" not in text


def test_the_last_switches_newest_first() -> None:
    what = scene()
    assert what.snapshot is not None
    later = {**PAST, "from": None, "to": "coder", "rung": "start", "outcome": "failed"}
    what.snapshot.history["switches"] = [PAST] * 6 + [{**later, "estimate_s": None}]
    rows = drawn(what).split("Last switches")[1].splitlines()[2:]
    assert rows[0].split()[1:] == ["-", "coder", "3.2", "s", "failed", "cold"]
    woken = ["qwen-vl", "qwen-14b", "3.2", "s", "2.5", "s", "ok", "woken,", "asleep-1"]
    assert rows[1].split()[1:] == woken
    assert len([row for row in rows if row.strip()]) == 5


def test_a_lost_gateway_is_said_to_be_lost_and_since_when() -> None:
    text = drawn(scene(lost_s=75.0, switch=SWITCH))
    assert " ".join(text.split("\n\n")[0].split()) == (
        "Lost the gateway at http://here 75 s ago: it does not answer. Trying again. "
        "What follows is from then."
    )
    assert "qwen-14b" in text
    never = drawn(Scene("http://here", lost_s=1.0, why="it does not answer."))
    assert never.strip().endswith("Trying again.")


def test_before_the_first_answer() -> None:
    assert drawn(Scene("http://here")) == "Asking http://here\n"


@pytest.mark.parametrize("width", [40, 59, 60, 99, 100, 200])
def test_nothing_is_wider_than_the_window(width: int) -> None:
    text = drawn(scene(switch=SWITCH), width)
    assert max(map(len, text.splitlines())) <= width
    assert ("TOK/S" in text) == (width >= 60)
    assert ("NOTE" in text) == (width >= 100)
    assert "qwen-14b" in text
