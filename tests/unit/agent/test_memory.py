from pathlib import Path

import pytest

from reknit.agent.memory import RECENT_SECONDS, MemoryWatch, find_counter, num_kills

EVENTS = "low 0\nhigh 12\nmax 7\noom 3\noom_kill {}\noom_group_kill 0\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (EVENTS.format(2), 2),
        ("oom_kill_disable 0\nunder_oom 0\noom_kill 5\n", 5),
        ("oom 3\n", 0),
        ("", 0),
    ],
)
def test_counts(text: str, expected: int) -> None:
    assert num_kills(text) == expected


@pytest.mark.parametrize(
    ("cgroups", "present", "expected"),
    [
        ("0::/\n", ["memory.events"], "memory.events"),
        ("0::/kubepods/pod1\n", ["kubepods/pod1/memory.events"], "kubepods/pod1/memory.events"),
        ("0::/kubepods/pod1\n", ["memory.events"], "memory.events"),
        (
            "9:name=systemd:/\n4:memory:/box\n0::/\n",
            ["memory/box/memory.oom_control"],
            "memory/box/memory.oom_control",
        ),
        ("4:cpu,memory:/x\n", ["memory/memory.oom_control"], "memory/memory.oom_control"),
        ("0::/\n", [], None),
        ("", ["memory.events"], None),
    ],
)
def test_the_counter_is_found(
    tmp_path: Path, cgroups: str, present: list[str], expected: str | None
) -> None:
    for name in present:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    found = find_counter(cgroups, tmp_path)
    assert found == (tmp_path / expected if expected else None)


def test_only_a_recent_kill_explains_the_end_of_a_process(tmp_path: Path) -> None:
    counter = tmp_path / "memory.events"
    counter.write_text(EVENTS.format(4))
    watch = MemoryWatch(counter)
    assert not watch.is_recent(now=0.0), "earlier kills do not count"
    counter.write_text(EVENTS.format(5))
    assert watch.is_recent(now=10.0)
    assert watch.is_recent(now=10.0 + RECENT_SECONDS)
    assert not watch.is_recent(now=10.1 + RECENT_SECONDS)


def test_without_a_counter_nothing_is_known(tmp_path: Path) -> None:
    assert not MemoryWatch(None).is_recent(now=0.0)
    assert not MemoryWatch(tmp_path / "missing").is_recent(now=0.0)
