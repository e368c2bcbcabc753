"""What tests of the page ask of a document, and a run with one sensor and one fan, whose rows say what a test wants."""

from __future__ import annotations

from typing import Any

from dashboards import about

from twin.dashboard.live import LiveRun
from twin.dashboard.runs import Sensor

SHOWN = """
const view = document.querySelectorAll(".view")[%d];
const shown = Object.fromEntries([...view.querySelectorAll("[data-shows]")].map(
  node => [node.dataset.shows, node.textContent]));
return {cycle: view.dataset.cycle === undefined ? null : Number(view.dataset.cycle), ...shown};
"""
OVERLAPS = """
const found = [];
for (const card of document.querySelectorAll(".card, .head, .bar, .transport, .panel, .graph.wide")) {
  const frame = card.getBoundingClientRect();
  const walker = document.createTreeWalker(card, NodeFilter.SHOW_TEXT);
  const boxes = [];
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    if (!node.data.trim() || node.parentElement.closest(".visually-hidden, option, [hidden]")) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const box = range.getBoundingClientRect();
    const clipped = node.parentElement.closest(".text, .of, .scroll");
    const own = clipped ? clipped.getBoundingClientRect() : box;
    if (!box.width) continue;
    const seen = {left: Math.max(box.left, own.left), right: Math.min(box.right, own.right), top: box.top,
                  bottom: Math.min(box.bottom, clipped ? own.bottom : box.bottom)};
    if (seen.left < frame.left - 1 || seen.right > frame.right + 1) found.push(["leaves", node.data]);
    for (const [text, other] of boxes) {
      if (Math.min(seen.right, other.right) - Math.max(seen.left, other.left) > 1
          && Math.min(seen.bottom, other.bottom) - Math.max(seen.top, other.top) > 4) found.push([text, node.data]);
    }
    boxes.push([node.data, seen]);
  }
}
return found;
"""

FAN = (
    *("cycle", "time_ns", "cpu_temp_millicelsius", "cpu_fan_rpm", "cpu_worst_millicelsius", "suspicion", "unchecked"),
    *("action", "source", "reason", "cpu_fan_pwm_asked", "cpu_fan_pwm_command", "cpu_fan_pwm_applied"),
    *("shield_changed", "apply_failed", "tick_interval_ns", "window_width"),
)  # fmt: skip
GOOD = ("", "", "noop", "rules", "within the target", 60, 60, 60, "", "")


def fan_run(name: str, cycles: int, degrees: int = 40, **changes: Any) -> LiveRun:
    run = LiveRun(about(name, **changes, sensors=(Sensor("cpu", 95_000),), columns=FAN))
    for cycle in range(cycles):
        run.record(0, [cycle, cycle * 100_000_000, 39_000, 700, degrees * 1_000, *GOOD, 600_000 + cycle, 256], None)
    return run
