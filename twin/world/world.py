"""The world: a machine, its work and its faults, as processes of one environment. It knows no controller."""

from __future__ import annotations

from collections.abc import Generator, Mapping

from simpy import Event

from hardware.interface import Status, UnknownChannelError, Wiring
from twin import wiring as wirings
from twin.clock import Order, TwinEnvironment
from twin.kernels import Stream
from twin.scenario import Machine, Scenario
from twin.timing import MILLISECOND_NS
from twin.world.faults import Faults, Statuses, Values
from twin.world.frames import FramePipeline
from twin.world.plant import Plant
from twin.world.trace import TraceTable
from twin.world.workload import Workload

# Looked up once: an enumeration's members are found slowly, and readings need twenty of them at a time.
_OK, _ABSENT = Status.OK, Status.ABSENT


class World:
    """The machine of `scenario`, alive in `env` from its time 0 on; `trace` is the recording that its workload names.

    Raises `ValueError` for a machine that does not fit together, a fault of something that is not there, and a wiring
    that is not the machine's.
    """

    def __init__(
        self, env: TwinEnvironment, scenario: Scenario, wiring: Wiring, trace: TraceTable | None = None
    ) -> None:
        machine = scenario.machine
        if wiring != wirings.wiring(machine):
            raise ValueError("the wiring is not that of the scenario's machine; make it with twin.wiring.wiring")
        self._env = env
        self._plant = Plant(machine, scenario.seed)
        self._gpu_enabled = machine.gpu.enabled
        self._frames = FramePipeline(
            env,
            Stream(scenario.seed, "world.frames"),
            scenario.workload.frame_queue,
            self._plant.cpu_kilohertz,
            self._plant.gpu_kilohertz if machine.gpu.enabled else None,
        )
        self._workload = Workload(env, scenario, self._frames, trace)
        self._initial = {limit.name: limit.maximum for limit in wiring.outputs}
        self._initial |= {f"{fan.name}_pwm": fan.initial_pwm for fan in machine.fans}
        self._faults = Faults(env, scenario, wiring, self._healthy, self._initial)
        self._places = {limit.name: place for place, limit in enumerate(wiring.outputs)}
        self._all_there = (_OK,) * len(wiring.sensors)
        self._unsettled = True
        env.process(self._step())
        env.process(self._weather(machine))

    def sense(self) -> tuple[Values, Statuses]:
        """What every sensor of the wiring shows now, in its order, and why those that show nothing do not.

        Changes nothing: asked twice at the same time, the answer is the same.
        """
        return self._faults.shown(*self._healthy())

    def actuate(self, name: str, value: int) -> None:
        """Command output `name` to `value`, which lies within its limits. Raises `UnknownChannelError`."""
        output = self._faults.outputs.get(name)
        if output is None:
            raise UnknownChannelError(name, tuple(self._places))
        output.take(value)
        self._unsettled = True

    def commanded(self, name: str) -> int:
        """The last value commanded to output `name` (at first the fan's initial PWM, or the cap's maximum).

        A fault may keep it from having its effect. Raises `UnknownChannelError`.
        """
        return self._faults.outputs[self._known(name)].commanded

    def release(self) -> None:
        """The firmware takes over: every output is commanded to its initial value."""
        for name, value in self._initial.items():
            self.actuate(name, value)

    @property
    def true_temperatures_celsius(self) -> dict[str, float]:
        """The temperature of every thermal node, without any sensor."""
        return self._plant.temperatures_celsius

    @property
    def maxima_celsius(self) -> dict[str, float]:
        """The highest true temperature of every thermal node so far."""
        return self._plant.maxima_celsius

    @property
    def heat_in_joules(self) -> float:
        """Heat that the parts gave off since the start."""
        return self._plant.heat_in_joules

    @property
    def heat_out_joules(self) -> float:
        """Heat that the air around took since the start."""
        return self._plant.heat_out_joules

    @property
    def heat_stored_joules(self) -> float:
        """Heat that the machine holds more than at the start."""
        return self._plant.heat_stored_joules

    @property
    def plant(self) -> Plant:
        """The physics, for a look at what no sensor shows."""
        return self._plant

    def _known(self, name: str) -> str:
        if name not in self._places:
            raise UnknownChannelError(name, tuple(self._places))
        return name

    def _healthy(self) -> tuple[Values, Statuses]:
        demand = self._workload.demand
        rate, latency = self._frames.shown()
        values: Values = (
            *self._plant.readings(demand.memory_ppm),
            rate,
            latency,
            demand.state_code,
            demand.words_per_second,
            None if rate is None else self._frames.completed,
        )
        if None not in values:
            return values, self._all_there
        return values, tuple([_ABSENT if value is None else _OK for value in values])

    def _step(self) -> Generator[Event, None, None]:
        plant = self._plant
        step_ns = plant.step_ns
        while True:
            yield self._env.after(step_ns, Order.WORLD)
            self._settle_outputs()
            plant.step(self._workload.take(step_ns))
            self._frames.cpu.kilohertz = plant.cpu_kilohertz
            if self._gpu_enabled:
                self._frames.gpu.kilohertz = plant.gpu_kilohertz

    def _settle_outputs(self) -> None:
        """Bring what was commanded, and what faults make of it, to the plant."""
        faulty = self._faults.outputs_at_fault
        if self._unsettled or faulty:
            outputs: Mapping[str, int] = self._places
            for name, place in outputs.items():
                self._plant.commands[place] = self._faults.outputs[name].in_force()
            # After the last fault once more, to return to what is commanded.
            self._unsettled = faulty

    def _weather(self, machine: Machine) -> Generator[Event, None, None]:
        for step in sorted(machine.ambient_steps, key=lambda step: step.at_ms):
            yield self._env.at(step.at_ms * MILLISECOND_NS, Order.WORLD)
            self._plant.set_ambient(step.celsius)
