"""What the guardian decides: pure, driven by hand and by Hypothesis."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hardware.fan import KICK_NS, LEARN, TACH_NS, FanWatch
from hardware.watch import (
    CALM_NS,
    FIGHT_NS,
    GIVE_UP_NS,
    LEASE_NS,
    SLOW_NS,
    VALID_TICKS,
    WRITE_NS,
    Bounds,
    OutputWatch,
    State,
    Trouble,
    Watch,
)  # fmt: skip

SECOND = 10**9
SETTLE_NS = 2 * SECOND
FAN = Bounds(0, 255, 255, 1, SETTLE_NS)
CAP = Bounds(1_000, 100_000, 20_000, -1, SETTLE_NS)


def asked(bounds: Bounds, raw: int, fan: bool = False) -> OutputWatch:
    output = OutputWatch(bounds, fan)
    output.asked = raw
    return output


def in_force(bounds: Bounds, raw: int, now_ns: int = 0, fan: bool = False) -> OutputWatch:
    output = asked(bounds, raw, fan)
    assert output.due(now_ns, False) == raw
    output.wrote(now_ns, raw, "")
    return output


# --- what is there before it is written over --------------------------------------------------------------------------


@pytest.mark.parametrize("bounds", [FAN, CAP])
def test_what_somebody_else_writes_now_and_then_is_seen_though_it_is_written_over(bounds: Bounds) -> None:
    less = bounds.minimum if bounds.cooler > 0 else bounds.maximum
    middle = (bounds.minimum + bounds.maximum) // 2
    output = in_force(bounds, middle)
    for tenth in range(1, 15):
        now_ns = tenth * WRITE_NS
        foreign = tenth % 5 == 0
        assert output.found(now_ns, less if foreign else middle, True) is True
        assert (output.trouble is Trouble.LESS) is (tenth >= 10)
        output.due(now_ns, output.trouble is Trouble.LESS)
        output.wrote(now_ns, middle, "")
    assert f"something else has made it {less} where it was {middle}, which cools less" in output.why
    # It is looked at more often then, and calms down.
    output.looked(2 * SECOND, middle, True, None, "")
    assert output.look_due(2 * SECOND + WRITE_NS)
    assert output.trouble is Trouble.LESS
    output.looked(3 * SECOND, middle, True, None, "")
    assert output.trouble is Trouble.NONE
    assert not output.look_due(3 * SECOND + WRITE_NS)


def test_what_somebody_else_keeps_cooler_is_not_written_over() -> None:
    output = in_force(FAN, 80)
    assert output.found(WRITE_NS, None, True)
    assert output.found(WRITE_NS, 250, True)
    assert not output.found(2 * WRITE_NS, 250, True)
    assert output.trouble is Trouble.YIELDS
    assert output.found(2 * WRITE_NS + FIGHT_NS, 250, True)


# --- one output -------------------------------------------------------------------------------------------------------


def test_only_what_changes_is_written_and_not_too_often() -> None:
    output = OutputWatch(FAN)
    assert output.due(0, False) is None
    assert output.due(0, True) is None
    output.asked = 80
    assert output.due(5, False) == 80
    output.wrote(5, 80, "")
    output.asked = 81
    assert output.due(4 + WRITE_NS, False) is None
    assert output.due(5 + WRITE_NS, False) == 81
    output.wrote(5 + WRITE_NS, 81, "")
    assert output.due(9 * WRITE_NS, False) is None


@pytest.mark.parametrize(
    ("bounds", "ask", "safe"), [(FAN, 80, 255), (CAP, 50_000, 20_000), (CAP, 9_000, 9_000)], ids=str
)
def test_full_cooling_need_not_wait_and_never_cools_less_than_was_asked(bounds: Bounds, ask: int, safe: int) -> None:
    output = in_force(bounds, ask)
    assert output.due(1, True) == (None if safe == ask else safe)
    if safe != ask:
        output.wrote(1, safe, "")
        assert output.due(2, True) is None
        # The way back waits.
        assert output.due(2, False) is None
        assert output.due(1 + WRITE_NS, False) == ask


def test_a_fan_that_is_at_full_speed_stays_there() -> None:
    plain = Bounds(0, 255, 200, 1, SETTLE_NS)
    assert in_force(plain, 230).due(1, True) is None


def test_what_failed_is_tried_again_and_said_until_it_works() -> None:
    output = asked(FAN, 80)
    output.wrote(0, 80, "EIO")
    assert (output.trouble, output.why, output.written) == (Trouble.FAILED, "EIO", None)
    assert output.due(WRITE_NS - 1, False) is None
    assert output.due(WRITE_NS, False) == 80
    assert not output.look_due(10 * SECOND)
    output.wrote(WRITE_NS, 80, "")
    assert (output.trouble, output.why) == (Trouble.NONE, "")


def look(output: OutputWatch, now_ns: int, value: int | None, ours: bool = True, rpm: int | None = None) -> None:
    assert output.look_due(now_ns)
    assert not output.look_due(now_ns - SETTLE_NS)
    output.looked(now_ns, value, ours, rpm, "EIO" if value is None else "")


@pytest.mark.parametrize(("bounds", "play"), [(FAN, 15), (Bounds(1_000, 4_000, 2_000, -1, SETTLE_NS), 187)])
def test_devices_round_by_a_sixteenth_of_their_range(bounds: Bounds, play: int) -> None:
    middle = (bounds.minimum + bounds.maximum) // 2
    for away in (-play - 1, -play, play, play + 1):
        output = in_force(bounds, middle)
        look(output, SETTLE_NS, middle + away)
        look(output, 2 * SETTLE_NS, middle + away)
        assert (output.trouble is Trouble.NONE) is (abs(away) <= play), away


def test_what_is_read_may_be_as_old_as_the_device_says() -> None:
    output = in_force(FAN, 80)
    assert not output.look_due(SETTLE_NS - 1)
    output.asked = 200
    assert output.due(SECOND, False) == 200
    output.wrote(SECOND, 200, "")
    # Both the old value and the new one are right, and what is rounded; for ever only the new one.
    look(output, SETTLE_NS, 80)
    assert output.trouble is Trouble.NONE
    look(output, 2 * SETTLE_NS, 215)
    assert output.trouble is Trouble.NONE
    look(output, 3 * SETTLE_NS, 80)
    assert output.trouble is Trouble.NONE
    look(output, 4 * SETTLE_NS, 80)
    assert output.trouble is Trouble.LESS


@pytest.mark.parametrize(("bounds", "mine", "theirs"), [(FAN, 80, 20), (CAP, 50_000, 90_000)], ids=["fan", "cap"])
def test_less_cooling_is_an_alarm_and_taken_back_at_once_but_not_often(bounds: Bounds, mine: int, theirs: int) -> None:
    output = in_force(bounds, mine)
    look(output, SETTLE_NS, theirs)
    assert output.trouble is Trouble.NONE
    look(output, 2 * SETTLE_NS, theirs)
    assert output.trouble is Trouble.LESS
    assert f"{theirs} where it was {mine}, which cools less" in output.why
    fought_ns = 2 * SETTLE_NS
    assert output.due(fought_ns, False) == mine
    output.wrote(fought_ns, mine, "")
    look(output, 3 * SETTLE_NS, theirs)
    look(output, 4 * SETTLE_NS, theirs)
    # Nobody fights faster than that, unless things have to be cooled.
    for now_ns in (4 * SETTLE_NS, fought_ns + FIGHT_NS - 1):
        assert output.due(now_ns, False) is None
    assert output.due(fought_ns + FIGHT_NS, False) == mine
    output.wrote(fought_ns + FIGHT_NS, mine, "")
    output.looked(fought_ns + FIGHT_NS + SETTLE_NS, mine, True, None, "")
    assert output.trouble is Trouble.NONE


@pytest.mark.parametrize(
    ("bounds", "mine", "theirs", "safe"), [(FAN, 80, 20, 255), (CAP, 50_000, 90_000, 20_000)], ids=["fan", "cap"]
)
def test_full_cooling_is_fought_for_each_time_that_it_is_looked(
    bounds: Bounds, mine: int, theirs: int, safe: int
) -> None:
    output = in_force(bounds, mine)
    assert output.due(1, True) == safe
    output.wrote(1, safe, "")
    now_ns = 1
    for turn in range(1, 20):
        now_ns = 1 + turn * SETTLE_NS
        look(output, now_ns, theirs)
        # Written at once, and called a fight when it was seen twice.
        assert output.due(now_ns, True) == safe
        output.wrote(now_ns, safe, "")
        assert output.trouble is (Trouble.NONE if turn < 2 else Trouble.LESS)
        assert output.due(now_ns + 1, True) is None
    # What cannot be read is written again too, and what cools more than is safe is not.
    look(output, now_ns + SETTLE_NS, None)
    assert output.due(now_ns + SETTLE_NS, True) == safe
    output.wrote(now_ns + SETTLE_NS, safe, "")
    if bounds is CAP:
        look(output, now_ns + 2 * SETTLE_NS, 5_000)
        assert output.due(now_ns + 2 * SETTLE_NS, True) is None


def test_what_answers_slowly_is_used_less_often_and_said() -> None:
    output = in_force(FAN, 80)
    output.took(0, SLOW_NS)
    output.took(0, SLOW_NS + 1)
    assert output.trouble is Trouble.NONE
    output.took(0, 2 * SECOND)
    assert (output.trouble, output.why) == (Trouble.FAILED, "its files took 2000 ms, and are used less often")
    output.asked = 90
    rest_ns = 20 * 2 * SECOND
    for now_ns, due in ((rest_ns - 1, False), (rest_ns, True)):
        assert output.look_due(now_ns) is due
        assert (output.due(now_ns, False) == 90) is due
    output.took(0, 2 * SECOND)
    # Full cooling waits for nothing.
    assert output.due(1, True) == 255
    output.took(1, SLOW_NS)
    assert (output.trouble, output.due(WRITE_NS, False)) == (Trouble.NONE, 90)


@pytest.mark.parametrize(
    ("bounds", "mine", "theirs", "ours"),
    [(FAN, 80, 200, True), (FAN, 80, 255, False), (FAN, 80, 82, False), (CAP, 50_000, 9_000, True)],
    ids=["faster", "full mode", "the same in its own mode", "cap"],
)
def test_more_cooling_by_others_is_left_alone(bounds: Bounds, mine: int, theirs: int, ours: bool) -> None:
    output = in_force(bounds, mine)
    look(output, SETTLE_NS, theirs, ours)
    look(output, 2 * SETTLE_NS, theirs, ours)
    assert output.trouble is Trouble.YIELDS
    assert "is left to it" in output.why
    assert ("mode of its own" in output.why) is not ours
    output.asked = mine + 1
    assert output.due(2 * SETTLE_NS + FIGHT_NS - 1, False) is None
    # While it waits, what it sees says nothing new.
    look(output, 3 * SETTLE_NS, theirs, ours)
    assert output.due(2 * SETTLE_NS + FIGHT_NS, False) == mine + 1


@pytest.mark.parametrize(
    ("bounds", "mine", "theirs", "safe"), [(FAN, 80, 200, 255), (CAP, 50_000, 30_000, 20_000)], ids=["fan", "cap"]
)
def test_full_cooling_is_not_left_to_others_who_cool_less(bounds: Bounds, mine: int, theirs: int, safe: int) -> None:
    output = in_force(bounds, mine)
    look(output, SETTLE_NS, theirs)
    look(output, 2 * SETTLE_NS, theirs)
    assert output.trouble is Trouble.YIELDS
    assert output.due(2 * SETTLE_NS, False) is None
    # What cools as much is left alone, and looked at all the while.
    look(output, 3 * SETTLE_NS, safe)
    assert output.due(3 * SETTLE_NS, True) is None
    look(output, 4 * SETTLE_NS, theirs)
    assert output.due(4 * SETTLE_NS, False) is None
    assert output.due(4 * SETTLE_NS, True) == safe
    output.wrote(4 * SETTLE_NS, safe, "")
    look(output, 5 * SETTLE_NS, safe)
    assert output.trouble is Trouble.NONE


def test_what_it_is_left_to_is_watched() -> None:
    output = in_force(FAN, 80)
    look(output, SETTLE_NS, 200)
    look(output, 2 * SETTLE_NS, 200)
    look(output, 3 * SETTLE_NS, None)
    assert output.due(3 * SETTLE_NS, False) is None
    # Nobody knows what it is left to.
    unknown = output.due(3 * SETTLE_NS, True)
    assert unknown == 255
    output = in_force(FAN, 80)
    look(output, SETTLE_NS, 200)
    look(output, 2 * SETTLE_NS, 200)
    look(output, 3 * SETTLE_NS, 10)
    look(output, 4 * SETTLE_NS, 10)
    assert output.trouble is Trouble.LESS
    assert output.due(4 * SETTLE_NS, False) == 80
    # Who gives it back by himself ends the wait.
    output = in_force(FAN, 80)
    look(output, SETTLE_NS, 200)
    look(output, 2 * SETTLE_NS, 200)
    look(output, 3 * SETTLE_NS, 80)
    assert output.trouble is Trouble.NONE
    output.asked = 90
    assert output.due(3 * SETTLE_NS, False) == 90
    # After a suspend nothing is left to anybody.
    output = in_force(FAN, 80)
    look(output, SETTLE_NS, 200)
    look(output, 2 * SETTLE_NS, 200)
    output.forget()
    assert output.due(2 * SETTLE_NS, False) == 80


def test_one_that_cannot_be_read_back_is_said() -> None:
    output = in_force(FAN, 80)
    look(output, SETTLE_NS, None)
    assert output.trouble is Trouble.NONE
    look(output, 2 * SETTLE_NS, None)
    assert (output.trouble, output.why) == (Trouble.FAILED, "it cannot be read back: EIO")
    look(output, 3 * SETTLE_NS, 80)
    assert output.trouble is Trouble.NONE


def test_after_a_suspend_everything_is_written_again() -> None:
    output = in_force(FAN, 80)
    output.forget()
    assert not output.look_due(9 * SECOND)
    assert output.due(WRITE_NS, False) == 80


# --- fans -------------------------------------------------------------------------------------------------------------


def test_a_fan_that_stalls_is_kicked_and_never_run_so_slow_again() -> None:
    output = in_force(FAN, 40, fan=True)
    assert output.fan is not None
    look(output, SETTLE_NS, 40, rpm=0)
    look(output, 2 * SETTLE_NS, 40, rpm=0)
    assert output.trouble is Trouble.NONE
    now_ns = 3 * SETTLE_NS
    look(output, now_ns, 40, rpm=0)
    assert output.due(now_ns, False) == 255
    output.wrote(now_ns, 255, "")
    assert output.due(now_ns + KICK_NS - 1, False) is None
    assert output.due(now_ns + KICK_NS, False) == 40 + LEARN == output.fan.least
    output.wrote(now_ns + KICK_NS, 40 + LEARN, "")
    look(output, now_ns + SETTLE_NS, 40 + LEARN, rpm=700)
    look(output, now_ns + 2 * SETTLE_NS, 40 + LEARN, rpm=700)
    assert output.trouble is Trouble.NONE
    # 0 stays 0, and whoever stands by order is started by half of what has started it before.
    output.asked = 0
    now_ns += 3 * SETTLE_NS
    assert output.due(now_ns, False) == 0
    output.wrote(now_ns, 0, "")
    look(output, now_ns, 0, rpm=0)
    output.asked = 60
    now_ns += SECOND
    assert output.due(now_ns, False) == 60
    output.wrote(now_ns, 60, "")
    assert output.due(now_ns + WRITE_NS, False) == 128


def turning(fan: FanWatch, level: int, needed: int, now_ns: int) -> int:
    """The fan is told to stand and then to turn at `level`; it starts with `needed`. Returns when it was done."""
    fan.told(now_ns, 200, 0)
    fan.heard(now_ns, 0, 0)
    now_ns += SECOND
    fan.told(now_ns, 0, level)
    kick = fan.goal(now_ns, level)
    while True:
        now_ns += TACH_NS
        if kick >= needed:
            assert fan.heard(now_ns, level, 500) == ""
            return now_ns
        fan.heard(now_ns, level, 0)
        fan.heard(now_ns + 1, level, 0)
        kick = fan.goal(now_ns + 1, level)
        now_ns += 1


def test_the_least_start_is_found_between_what_starts_it_and_what_does_not() -> None:
    fan = FanWatch(255)
    now_ns = 0
    for _time in range(12):
        now_ns = turning(fan, 30, 70, now_ns)
        assert fan.start >= 70
    assert fan.start <= 70 + LEARN
    assert fan.least == 0


def test_a_fan_that_stands_at_full_speed_or_after_a_full_kick_is_dead_until_it_turns() -> None:
    fan = FanWatch(255)
    fan.told(0, None, 255)
    assert fan.heard(TACH_NS - 1, 255, 0) == ""
    assert fan.heard(TACH_NS, 255, 0) == ""
    assert fan.heard(TACH_NS + 1, 255, 0) == "the fan stands at 255"
    # Once is not enough to say so, and once is enough to take it back.
    assert fan.heard(TACH_NS + 2, 255, 0) == "the fan stands at 255"
    assert fan.heard(TACH_NS + 3, 255, 900) == ""
    slow = FanWatch(255)
    slow.told(0, 0, 50)
    assert [slow.heard(2 * TACH_NS, 50, 0), slow.heard(2 * TACH_NS + 1, 50, 0)] == ["", "the fan stands at 50"]


def test_a_fan_that_does_not_hear_is_dead_and_one_that_does_is_not() -> None:
    for faster, dead in ((1_000, True), (1_040, True), (1_100, False)):
        fan = FanWatch(255)
        fan.told(0, None, 80)
        assert fan.heard(TACH_NS, 80, 1_000) == ""
        fan.told(TACH_NS, 80, 200)
        assert fan.heard(2 * TACH_NS - 1, 200, 1_000) == ""
        assert fan.heard(2 * TACH_NS, 200, faster) == ""
        said = fan.heard(2 * TACH_NS + 1, 200, faster)
        assert (said != "") is dead
        if dead:
            assert f"turns at {faster} rpm at 200 and at 1000 rpm at 80" in said
            assert fan.heard(2 * TACH_NS + 2, 200, 1_500) == ""
    # Above half a fan may be as fast as it can be.
    fan = FanWatch(255)
    fan.told(0, None, 150)
    fan.heard(TACH_NS, 150, 1_000)
    fan.told(TACH_NS, 150, 255)
    assert [fan.heard(2 * TACH_NS + look, 255, 1_000) for look in range(3)] == ["", "", ""]


# --- the whole --------------------------------------------------------------------------------------------------------


def watch(*outputs: OutputWatch | None) -> Watch:
    made = Watch()
    made.outputs = list(outputs)
    return made


def test_the_lease_is_the_number_that_goes_up() -> None:
    guard = watch(OutputWatch(FAN))
    assert guard.judge(99 * SECOND) is State.NORMAL
    guard.proposal(0, 1, [(0, 80)])
    assert guard.judge(LEASE_NS) is State.NORMAL
    assert guard.judge(LEASE_NS + 1) is State.MAXCOOL
    assert guard.cool
    assert "silent for more than 350 ms" in guard.reason
    now_ns = SECOND
    for tick in range(2, 2 + VALID_TICKS):
        assert guard.judge(now_ns) is State.MAXCOOL
        guard.proposal(now_ns, tick, [(0, 80)])
        now_ns += SECOND // 10
    # Enough good ones, but the state is not left at once.
    guard.proposal(now_ns, 100, [])
    assert guard.judge(now_ns) is State.MAXCOOL
    guard.proposal(now_ns + CALM_NS, 101, [])
    assert guard.judge(now_ns + CALM_NS) is State.NORMAL
    assert guard.reason == ""


def test_ten_good_proposals_are_enough_and_nine_are_not() -> None:
    guard = watch(OutputWatch(FAN))
    guard.proposal(0, 1, [])
    guard.judge(LEASE_NS + 1)
    for tick in range(2, 1 + VALID_TICKS):
        guard.proposal(tick * SECOND, tick, [])
        assert guard.judge(tick * SECOND) is State.MAXCOOL
    # The reason goes with the last of them; the state some time later.
    last_ns = (1 + VALID_TICKS) * SECOND
    guard.proposal(last_ns, 1 + VALID_TICKS, [])
    assert guard.judge(last_ns) is State.MAXCOOL
    guard.proposal(last_ns + CALM_NS, 2 + VALID_TICKS, [])
    assert guard.judge(last_ns - SECOND + CALM_NS) is State.NORMAL


def test_the_worst_of_what_is_wrong_counts() -> None:
    output = in_force(FAN, 80)
    for now_ns in (SETTLE_NS, 2 * SETTLE_NS):
        output.looked(now_ns, 20, True, None, "")
    assert output.trouble is Trouble.LESS
    output.wrote(2 * SETTLE_NS, 80, "EIO: it")
    assert output.trouble is Trouble.LESS
    assert "EIO: it" in output.why
    assert State.ALARM is watch(output).judge(2 * SETTLE_NS)


@pytest.mark.parametrize(
    ("tick", "wanted", "why"),
    [
        (5, [(0, 80)], "proposal 5 after 5 is no progress"),
        (4, [(0, 80)], "proposal 4 after 5 is no progress"),
        (6, None, "proposal 6 after 5 is nonsense"),
        (6, [(0, 256)], "asks 256 of output 0"),
        (6, [(0, -1)], "asks -1 of output 0"),
        (6, [(1, 7)], "asks 7 of output 1"),
        (6, [(2, 7)], "asks 7 of output 2"),
    ],
)  # fmt: skip
def test_nonsense_and_no_progress_cool_at_once(tick: int, wanted: list[tuple[int, int]] | None, why: str) -> None:
    guard = watch(OutputWatch(FAN), None)
    guard.proposal(0, 5, [(0, 70)])
    guard.proposal(0, tick, wanted)
    assert why in guard.reason
    assert guard.judge(0) is State.MAXCOOL
    assert guard.outputs[0] is not None
    assert guard.outputs[0].asked == 70
    assert guard.tick == 5


def test_whoever_is_silent_for_long_does_not_come_back() -> None:
    guard = watch(OutputWatch(FAN))
    guard.proposal(0, 1, [(0, 80)])
    assert guard.judge(GIVE_UP_NS) is State.MAXCOOL
    assert guard.judge(GIVE_UP_NS + 1_000_000) is State.RESTORE
    assert guard.ended == "the controller has been silent for 30001 ms"
    guard.end("another reason")
    assert guard.ended.startswith("the controller")


def test_the_most_severe_wins_and_is_left_late() -> None:
    output, other = OutputWatch(FAN), OutputWatch(CAP)
    guard = watch(output, None, other)
    guard.proposal(0, 1, [(0, 80)])
    output.wrote(0, 80, "EIO")
    assert guard.judge(1) is State.DEGRADED
    assert not guard.cool
    output.wrote(2, 80, "")
    assert guard.judge(3) is State.DEGRADED
    other.written = 5
    guard.suspended()
    assert other.written is None
    assert guard.judge(4) is State.MAXCOOL
    assert guard.reason == "the machine was suspended"
    guard.end("over")
    assert guard.judge(5) is State.RESTORE
    other.note("shown", Trouble.LESS, "less")
    assert guard.judge(6) is State.ALARM
    assert guard.cool


class Machine(RuleBasedStateMachine):
    """Two outputs, a controller that may do anything, and firmware that may; checked against what is obvious."""

    @initialize()
    def begin(self) -> None:
        self.now_ns = SECOND
        self.watch = Watch()
        self.outputs = [OutputWatch(FAN, fan=True), OutputWatch(CAP)]
        self.watch.outputs = [*self.outputs]
        self.device = [200, 90_000]
        self.writes: list[list[tuple[int, int, bool]]] = [[], []]
        self.tick = 0
        self.good_ns: int | None = None
        self.bad_ns: int | None = None
        self.broken = [False, False]

    @rule(milliseconds=st.sampled_from([1, 20, 20, 90, 100, 300, 400, 2_000, 11_000]))
    def passes(self, milliseconds: int) -> None:
        self.now_ns += milliseconds * 1_000_000

    @rule(fan=st.integers(0, 255), cap=st.integers(1_000, 100_000))
    def proposes(self, fan: int, cap: int) -> None:
        self.tick += 1
        self.watch.proposal(self.now_ns, self.tick, [(0, fan), (1, cap)])
        self.good_ns = self.now_ns

    @precondition(lambda self: self.tick)
    @rule(back=st.integers(0, 3), fan=st.integers(-1, 256))
    def repeats(self, back: int, fan: int) -> None:
        self.watch.proposal(self.now_ns, self.tick - back, [(0, fan)])
        self.bad_ns = self.now_ns
        self.turn()
        assert self.watch.cool

    @rule(output=st.integers(0, 1), value=st.integers(0, 100_000))
    def firmware_changes(self, output: int, value: int) -> None:
        self.device[output] = value % 256 if output == 0 else value

    @rule(output=st.integers(0, 1), broken=st.booleans())
    def breaks(self, output: int, broken: bool) -> None:
        self.broken[output] = broken

    @rule()
    def sleeps(self) -> None:
        self.watch.suspended()
        self.turn()
        assert self.watch.cool

    @rule()
    def turn(self) -> None:
        """What the guardian does in one turn."""
        before = self.watch.state
        self.watch.judge(self.now_ns)
        silent = self.good_ns is not None and self.now_ns - self.good_ns > LEASE_NS
        assert not silent or self.watch.cool
        if self.watch.state < before:
            assert self.bad_ns is None or self.now_ns > self.bad_ns
        for place, output in enumerate(self.outputs):
            raw = output.due(self.now_ns, self.watch.cool)
            if raw is not None:
                self.writes[place].append((self.now_ns, raw, self.watch.cool))
                if not self.broken[place]:
                    self.device[place] = raw
                output.wrote(self.now_ns, raw, "EIO" if self.broken[place] else "")
            if output.look_due(self.now_ns):
                output.looked(self.now_ns, None if self.broken[place] else self.device[place], True, None, "")

    @invariant()
    def writes_are_sound(self) -> None:
        if not hasattr(self, "writes"):
            return
        for output, writes in zip(self.outputs, self.writes, strict=True):
            for (before_ns, _before, was_cool), (now_ns, raw, cool) in pairwise(writes):
                assert now_ns - before_ns >= WRITE_NS or (cool and not was_cool)
                assert output.bounds.minimum <= raw <= output.bounds.maximum
            for _now_ns, raw, cool in writes:
                if cool:
                    assert raw == 255 if output.bounds is FAN else raw <= CAP.safe
        assert not [output for output in self.outputs if output.asked is None and output.written is not None]


TestMachine = Machine.TestCase
