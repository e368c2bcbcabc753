"""What a scenario says: the schema, as frozen dataclasses whose defaults describe one plausible desktop machine.

A scenario file therefore says only what it changes. Units end the names, and the ranges stand in the types.
`twin.loader` reads files into these classes and reports every error at once.
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal, get_args

from annotated_types import Ge, Gt, Le, Len

from twin.schema import (
    Celsius,
    Kilohertz,
    Lateness,
    Milliseconds,
    Millivolt,
    Name,
    Natural,
    NonNegative,
    Positive,
    PositiveWatts,
    Share,
    Watts,
    model,
)

FaultState = Literal["ok", "off", "stuck", "garbage", "wrong", "slow", "delayed", "intermittent"]
FAULT_STATES: tuple[str, ...] = get_args(FaultState)
GameState = Literal["menu", "loading", "exploration", "combat"]
GAME_STATES: tuple[str, ...] = get_args(GameState)
Action = Literal["noop", "throttle", "boost", "reduce_power", "conservative"]
ACTIONS: tuple[Action, ...] = get_args(Action)


@model
class Cpu:
    """P = cores' sum of C*V^2*f*u, plus leakage V*I(T), plus idle power; capped by PL1 (averaged) and PL2."""

    node: Name = "cpu_die"
    cores: Annotated[int, Ge(1), Le(1024)] = 8
    frequencies_kilohertz: Annotated[tuple[Kilohertz, ...], Len(1, 64)] = (
        800_000, 1_600_000, 2_400_000, 3_000_000, 3_600_000, 4_200_000, 4_600_000, 5_000_000,
    )  # fmt: skip
    voltages_millivolt: Annotated[tuple[Millivolt, ...], Len(1, 64)] = (
        700, 750, 820, 900, 1_000, 1_120, 1_220, 1_320,
    )  # fmt: skip
    capacitance_nanofarad: Annotated[float, Gt(0.0), Le(100_000.0)] = 1.7
    leakage_amperes: Annotated[float, Ge(0.0), Le(10_000.0)] = 9.0
    leakage_per_kelvin: Annotated[float, Ge(0.0), Le(0.1)] = 0.012
    leakage_reference_celsius: Celsius = 50.0
    idle_leakage_share: Share = 0.35
    idle_watts: Watts = 10.0
    pl1_watts: PositiveWatts = 105.0
    pl1_window_ms: Milliseconds = 8_000
    pl2_watts: PositiveWatts = 142.0
    trip_celsius: Celsius = 100.0
    trip_hysteresis_celsius: Annotated[float, Ge(0.0), Le(50.0)] = 5.0
    energy_wrap_microjoules: Positive = 262_143_328_850
    safe_kilohertz: Positive = 1_600_000
    safe_watts: PositiveWatts = 35.0


@model
class Gpu:
    """As the CPU, with one clock domain, a power cap and a slowdown temperature.

    With `limit_clock` its highest clock is an output too, as NVIDIA has it; `safe_kilohertz` is the safe value of that.
    `nvml_cards` says which card it is, by UUID or PCI address, where there are several.
    """

    enabled: bool = True
    node: Name = "gpu_die"
    frequencies_kilohertz: Annotated[tuple[Kilohertz, ...], Len(1, 64)] = (
        300_000, 600_000, 900_000, 1_200_000, 1_500_000, 1_800_000, 2_100_000, 2_400_000,
    )  # fmt: skip
    voltages_millivolt: Annotated[tuple[Millivolt, ...], Len(1, 64)] = (
        650, 680, 720, 770, 830, 900, 980, 1_060,
    )  # fmt: skip
    capacitance_nanofarad: Annotated[float, Gt(0.0), Le(100_000.0)] = 80.0
    leakage_amperes: Annotated[float, Ge(0.0), Le(10_000.0)] = 14.0
    leakage_per_kelvin: Annotated[float, Ge(0.0), Le(0.1)] = 0.010
    leakage_reference_celsius: Celsius = 50.0
    idle_leakage_share: Share = 0.3
    idle_watts: Watts = 13.0
    power_limit_watts: PositiveWatts = 220.0
    minimum_power_limit_watts: PositiveWatts = 60.0
    slowdown_celsius: Celsius = 95.0
    slowdown_hysteresis_celsius: Annotated[float, Ge(0.0), Le(50.0)] = 5.0
    safe_watts: PositiveWatts = 60.0
    limit_clock: bool = False
    safe_kilohertz: Positive = 600_000
    hwmon_chips: tuple[Name, ...] = ("amdgpu",)
    nvml_cards: tuple[Name, ...] = ()


@model
class Memory:
    """Main memory: its size, and its heat between idle and full use, delivered to `node`."""

    node: Name = "case"
    total_kibibytes: Positive = 33_554_432
    idle_watts: Watts = 2.0
    full_watts: Watts = 7.0


@model
class Fan:
    """PWM to RPM: first-order lag towards pwm/255*max_rpm; starts at `start_pwm`, stalls below `stall_pwm`.

    The last keys say where Linux has it; the first that is there counts: a chip's pwm, a cooling device of the kernel
    by type, which has states from 0 to `cooling_states`, or (`nvml`) all fans of the NVIDIA card.
    """

    name: Name
    max_rpm: Annotated[int, Ge(1), Le(100_000)] = 2_200
    start_pwm: Annotated[int, Ge(0), Le(255)] = 50
    stall_pwm: Annotated[int, Ge(0), Le(255)] = 30
    lag_ms: Milliseconds = 1_000
    initial_pwm: Annotated[int, Ge(0), Le(255)] = 80
    hwmon_chips: tuple[Name, ...] = ("nct6775", "nct6798", "nct6687", "it8688", "it8620")
    index: Annotated[int, Ge(1), Le(16)] = 1
    cooling_devices: tuple[Name, ...] = ()
    cooling_states: Annotated[int, Ge(1), Le(255)] = 10
    nvml: bool = False


@model
class Node:
    """A lump of the thermal network. It starts at the ambient temperature unless `initial_celsius` says otherwise."""

    name: Name
    capacity_joules_per_kelvin: Annotated[float, Ge(0.001), Le(1e9)]
    initial_celsius: Celsius | None = None


@model
class Edge:
    """A conductance between two nodes (or a node and `ambient`).

    G = still * s + forced * (rpm / max_rpm) ** exponent; without a fan G = still * s. With D the difference of
    temperature (K), s = (D / 30) ** natural_exponent, D taken as at least 5 and at most 120: air that moves because it
    is warm carries more heat the warmer it is (1/4 for a plate in still air). 0 leaves s at 1.
    """

    a: Name
    b: Name
    still_watts_per_kelvin: NonNegative
    forced_watts_per_kelvin: NonNegative = 0.0
    fan: Name | None = None
    exponent: Annotated[float, Gt(0.0), Le(2.0)] = 0.6
    natural_exponent: Annotated[float, Ge(0.0), Le(2.0)] = 0.0


@model
class Sensor:
    """A temperature sensor on `node`: first-order lag, then sampling hold, offset, noise and quantum, all integers.

    `limit_celsius` is the temperature this node must not pass. `reference` marks a sensor
    that tells the plausibility model how warm its surroundings are. The remaining keys say where Linux shows it.
    """

    name: Name
    node: Name
    limit_celsius: Celsius
    reference: bool = False
    quantum_millicelsius: Annotated[int, Ge(1), Le(10_000)] = 1_000
    offset_millicelsius: Annotated[int, Ge(-20_000), Le(20_000)] = 0
    noise_millicelsius: Annotated[int, Ge(0), Le(20_000)] = 300
    lag_ms: Annotated[int, Ge(0), Le(60_000)] = 150
    hold_ms: Annotated[int, Ge(1), Le(60_000)] = 100
    hwmon_chips: tuple[Name, ...] = ()
    hwmon_labels: tuple[Name, ...] = ()
    thermal_zones: tuple[Name, ...] = ()


@model
class AmbientStep:
    """From `at_ms` on the ambient temperature is `celsius`."""

    at_ms: Natural
    celsius: Celsius


_DEFAULT_FANS = (
    Fan(name="cpu_fan", index=2),
    Fan(name="gpu_fan", max_rpm=3_000, lag_ms=800, hwmon_chips=("amdgpu",), index=1),
    Fan(name="case_fan", max_rpm=1_400, lag_ms=1_500, index=1),
)
_DEFAULT_NODES = (
    Node(name="cpu_die", capacity_joules_per_kelvin=25.0),
    Node(name="cpu_sink", capacity_joules_per_kelvin=220.0),
    Node(name="gpu_die", capacity_joules_per_kelvin=45.0),
    Node(name="gpu_sink", capacity_joules_per_kelvin=300.0),
    Node(name="case", capacity_joules_per_kelvin=400.0),
)
_DEFAULT_EDGES = (
    Edge(a="cpu_die", b="cpu_sink", still_watts_per_kelvin=4.5),
    Edge(a="cpu_sink", b="case", still_watts_per_kelvin=0.65, forced_watts_per_kelvin=4.25, fan="cpu_fan",
         exponent=0.75),
    Edge(a="gpu_die", b="gpu_sink", still_watts_per_kelvin=11.0),
    Edge(a="gpu_sink", b="case", still_watts_per_kelvin=1.0, forced_watts_per_kelvin=6.6, fan="gpu_fan",
         exponent=0.75),
    Edge(a="case", b="ambient", still_watts_per_kelvin=4.0, forced_watts_per_kelvin=21.0, fan="case_fan", exponent=0.8),
)  # fmt: skip
_DEFAULT_SENSORS = (
    Sensor(
        name="cpu", node="cpu_die", limit_celsius=95.0,
        hwmon_chips=("coretemp", "k10temp", "zenpower", "cpu_thermal"),
        hwmon_labels=("Package id 0", "Tctl", "Tdie"),
        thermal_zones=("x86_pkg_temp", "cpu-thermal", "cpu_thermal"),
    ),
    Sensor(
        name="gpu", node="gpu_die", limit_celsius=90.0, hwmon_chips=("amdgpu",), hwmon_labels=("edge",), lag_ms=250,
    ),
    Sensor(
        name="case", node="case", limit_celsius=65.0, reference=True, noise_millicelsius=200, lag_ms=1_000,
        quantum_millicelsius=500,
        hwmon_chips=("nct6775", "nct6798", "nct6687", "it8688", "it8620"), hwmon_labels=("SYSTIN", "System"),
        thermal_zones=("acpitz",),
    ),
)  # fmt: skip


@model
class Machine:
    """The hardware: processors, fans, the thermal network, sensors and the air around it."""

    name: Name = "desktop"
    ambient_celsius: Celsius = 24.0
    ambient_steps: tuple[AmbientStep, ...] = ()
    step_ms: Annotated[int, Ge(1), Le(1_000)] = 20
    cpu: Cpu = field(default_factory=Cpu)
    gpu: Gpu = field(default_factory=Gpu)
    memory: Memory = field(default_factory=Memory)
    fans: Annotated[tuple[Fan, ...], Len(0, 8)] = _DEFAULT_FANS
    nodes: Annotated[tuple[Node, ...], Len(1, 32)] = _DEFAULT_NODES
    edges: Annotated[tuple[Edge, ...], Len(1, 128)] = _DEFAULT_EDGES
    sensors: Annotated[tuple[Sensor, ...], Len(1, 16)] = _DEFAULT_SENSORS


@model
class Phase:
    """A stretch of work.

    Loads are shares of the processor's full speed, apart from the frames. A frame takes `frame_cpu_megacycles` on one
    core and then `frame_gpu_megacycles`, each varying by up to `frame_jitter` of itself. `frames_per_second` is the
    rate at which the application starts frames when nothing holds it back (0: no frames). Words are the heartbeat's
    units of work. Bursts add `burst_cpu_load`, `burst_gpu_load` and `burst_words_per_second` for `burst_ms` out of
    every `burst_every_ms`.
    """

    name: Name = "phase"
    state: GameState = "menu"
    duration_ms: Milliseconds = 10_000
    cpu_load: Share = 0.1
    gpu_load: Share = 0.0
    memory_share: Share = 0.2
    frames_per_second: Annotated[int, Ge(0), Le(1_000)] = 0
    frame_cpu_megacycles: NonNegative = 20.0
    frame_gpu_megacycles: NonNegative = 12.0
    frame_jitter: Share = 0.2
    words_per_second: Natural = 75_000
    burst_every_ms: Annotated[int, Ge(0), Le(10**8)] = 0
    burst_ms: Annotated[int, Ge(0), Le(10**8)] = 0
    burst_cpu_load: Share = 0.0
    burst_gpu_load: Share = 0.0
    burst_words_per_second: Natural = 0


@model
class Trace:
    """A recording that drives the world instead of phases.

    `file` is a CSV (or .csv.gz), relative to the scenario file. A column that is not named is not driven; loads are in
    percent, powers in watts. A power column drives the heat of its processor directly. Words follow the CPU load.
    """

    file: Annotated[str, Len(1, 4_096)]
    time_column: Name = "t_s"
    cpu_load_column: Name | None = None
    gpu_load_column: Name | None = None
    cpu_power_column: Name | None = None
    gpu_power_column: Name | None = None


@model
class Workload:
    """Phases in order, over and over while the run lasts when `repeat` is set (else the last one stays), or a trace."""

    repeat: bool = True
    frame_queue: Annotated[int, Ge(1), Le(16)] = 2
    phases: Annotated[tuple[Phase, ...], Len(1, 256)] = (Phase(),)
    trace: Trace | None = None


@model
class Heartbeat:
    """The tick whose interval answers the load, and the words executed between two ticks.

    Heat is Q48.16: 65536 is one execution. A cold word loses `decay_q48_per_microsecond` in a microsecond, one of 16
    executions twice that, one of 32 three times, and so on; L6 moves that between `decay_min_..` and `decay_max_..`.
    `inference_ticks` is how many ticks lie between two inferences (left out: 100 under the adaptive law, 1,000 under
    the reference law). `select_mode` lets L8 switch L2, L3, L5 and L6. The lateness quantiles (0, 1, 5, 10, 25, 50, 75,
    90, 99, 99.9 and 100 %) say how late a simulated tick wakes; the defaults are those of the recorded heartbeat with a
    target of 1 ms.
    """

    law: Literal["adaptive", "reference"] = "adaptive"
    config: Name = "1_0_1_1_1_0"
    adapt_interval: bool = True
    select_mode: bool = True
    t0_ns: Annotated[int, Ge(10_000), Le(1_000_000_000)] = 1_000_000
    capacity_words_per_second: Annotated[int, Ge(1), Le(10**9)] = 750_000
    words: Annotated[int, Ge(1), Le(65_536)] = 1_024
    decay_q48_per_microsecond: Annotated[int, Ge(0), Le(65_536)] = 6
    decay_min_q48_per_microsecond: Annotated[int, Ge(1), Le(65_536)] = 1
    decay_max_q48_per_microsecond: Annotated[int, Ge(1), Le(65_536)] = 96
    decay_sweep_words: Annotated[int, Ge(0), Le(65_536)] = 64
    hot_executions: Annotated[int, Ge(1), Le(65_536)] = 10
    inference_ticks: Annotated[int, Ge(1), Le(10**9)] | None = None
    lateness_quantiles_ns: Annotated[tuple[Lateness, ...], Len(11, 11)] = (
        48_078, 67_858, 69_843, 72_457, 75_158, 79_233, 89_133, 97_207, 159_547, 1_523_290, 2_713_957,
    )  # fmt: skip


@model
class Control:
    """The controller's cycle and its tuning.

    `controller` is `rules-pid`, `steady` (asks for the same middle command always) or `module:factory` for your own.
    Gains are per kelvin of error: PWM steps (proportional), PWM steps per second (integral), PWM steps per kelvin per
    second (derivative), all in thousandths.

    A temperature that jumps by more than `slew_millicelsius` (plus what the physics allows) between two cycles is not
    believed; with `model_check`, one that differs from the thermal model by more than `suspicion_millicelsius` is
    suspected. Full cooling then lasts until `hold_cycles` cycles in a row were clean.
    """

    controller: Annotated[str, Len(1, 256)] = "rules-pid"
    period_ms: Annotated[int, Ge(1), Le(10_000)] = 100
    target_headroom_celsius: Annotated[float, Ge(1.0), Le(80.0)] = 22.0
    fan_proportional_milli: Annotated[int, Ge(0), Le(10**6)] = 9_000
    fan_integral_milli: Annotated[int, Ge(0), Le(10**6)] = 600
    fan_derivative_milli: Annotated[int, Ge(0), Le(10**6)] = 2_000
    fan_floor_pwm: Annotated[int, Ge(0), Le(255)] = 60
    model_check: bool = True
    suspicion_millicelsius: Annotated[int, Ge(500), Le(100_000)] = 6_000
    slew_millicelsius: Annotated[int, Ge(500), Le(100_000)] = 8_000
    hold_cycles: Annotated[int, Ge(1), Le(100_000)] = 30


@model
class Ranges:
    """What counts as 0 and as 1 in the learner's state: `(low, high)`, low below high. Loads and memory are shares."""

    temperature_celsius: tuple[Celsius, Celsius] = (20.0, 100.0)
    headroom_celsius: tuple[Celsius, Celsius] = (0.0, 60.0)
    power_watts: tuple[Watts, Watts] = (0.0, 325.0)
    frames_per_second: tuple[NonNegative, NonNegative] = (0.0, 144.0)
    latency_ms: tuple[NonNegative, NonNegative] = (0.0, 100.0)


@model
class Learn:
    """The optimizer that learns, and how far it is trusted.

    Off, the baseline alone decides. `checkpoint` is a file of weights to begin with (relative to the scenario's
    folder), else they are drawn from the seed. `reward` is `standard` or `module:function` for your own. The forecast
    sees `temperatures` alone, or `loads` too (`auto`); `predict_every_cycles` lie between two of its samples.

    Q-learning: every `train_every_cycles` a step along the gradient of `batch` out of the last `buffer` experiences,
    of which each cycle does its share; exploration and step size fall in a straight line from `_start` to `_end` over
    `_cycles`; the target copy is renewed every `target_cycles`.

    Authority is 0, 10, 50 or 100 %: how much of the way from the baseline's command to the proposed one is gone. It
    starts at `authority_percent` and rises after `evidence_cycles` without a reason against it, up to
    `authority_most_percent`. One of every `compare_every_blocks` blocks of 50 cycles belongs to the baseline, to
    compare with (0: none). Without `learning` the weights stay as they are and nothing is tried out.
    """

    enabled: bool = False
    learning: bool = True
    checkpoint: Annotated[str, Len(0, 4_096)] = ""
    actions: Annotated[tuple[Action, ...], Len(1, 5)] = ACTIONS
    reward: Annotated[str, Len(1, 256)] = "standard"
    predictor: Literal["auto", "temperatures", "loads"] = "auto"
    predict_every_cycles: Annotated[int, Ge(1), Le(10_000)] = 10
    quantised: bool = False
    ranges: Ranges = field(default_factory=Ranges)
    batch: Annotated[int, Ge(1), Le(256)] = 32
    train_every_cycles: Annotated[int, Ge(1), Le(256)] = 4
    buffer: Annotated[int, Ge(1), Le(100_000)] = 1_000
    discount: Annotated[float, Ge(0.0), Le(0.999)] = 0.95
    epsilon_start: Share = 0.1
    epsilon_end: Share = 0.1
    epsilon_cycles: Positive = 10_000
    rate_start: Annotated[float, Gt(0.0), Le(1.0)] = 0.001
    rate_end: Annotated[float, Gt(0.0), Le(1.0)] = 0.0003
    rate_cycles: Positive = 10_000
    target_cycles: Annotated[int, Ge(1), Le(10**9)] = 100
    authority_percent: Literal[0, 10, 50, 100] = 0
    authority_most_percent: Literal[0, 10, 50, 100] = 100
    evidence_cycles: Annotated[int, Ge(1), Le(10**9)] = 1_000
    compare_every_blocks: Annotated[int, Ge(0), Le(1_000_000)] = 8


@model
class Fault:
    """Channel `target` is in `state` from `at_ms` for `duration_ms` (0: for ever).

    `amount` is the offset of `wrong` in the channel's unit (0: a fitting default), `delay_ms` the delay of `delayed`
    and the sampling interval of `slow`.
    """

    target: Name
    state: FaultState
    at_ms: Natural = 0
    duration_ms: Natural = 0
    amount: Annotated[int, Ge(-(10**12)), Le(10**12)] = 0
    delay_ms: Milliseconds = 5_000


@model
class RandomFaults:
    """Faults drawn from the seed: on average `per_minute` for each target (all when empty), each for `duration_ms`."""

    per_minute: Annotated[float, Ge(0.0), Le(60_000.0)] = 0.0
    duration_ms: Milliseconds = 5_000
    targets: tuple[Name, ...] = ()
    states: tuple[FaultState, ...] = ("off", "stuck", "garbage", "wrong", "slow", "delayed", "intermittent")


@model
class Advisor:
    """Who says where words shall lie in the pool, every `every_cycles` control cycles; it changes no result.

    `heat` puts the hot ones side by side, `http` asks the model `model` at an OpenAI-compatible `url` (its key is in
    the environment variable `key_variable`) and waits for at most `time_limit_ms`, `off` leaves them where they are.
    """

    kind: Literal["heat", "http", "off"] = "heat"
    every_cycles: Annotated[int, Ge(1), Le(10**9)] = 50
    url: Annotated[str, Len(0, 4_096)] = ""
    model: Annotated[str, Len(0, 256)] = ""
    key_variable: Annotated[str, Len(0, 256)] = "OPENAI_API_KEY"
    time_limit_ms: Annotated[int, Ge(1), Le(600_000)] = 10_000


@model
class Pool:
    """Crystal Core, the memory pool that other processes can look into; it changes no result.

    With `shared` the words live in a pool of `size_bytes` (a multiple of 4,096) in shared memory, or in `file` when
    that is named. The last `records` telemetry records are kept there, one every `record_every_cycles` control cycles.
    """

    shared: bool = False
    size_bytes: Annotated[int, Ge(1 << 20), Le(1 << 36)] = 1 << 28
    file: Annotated[str, Len(0, 4_096)] = ""
    record_every_cycles: Annotated[int, Ge(1), Le(10**9)] = 5
    records: Annotated[int, Ge(1), Le(65_536)] = 256
    advisor: Advisor = field(default_factory=Advisor)


@model
class Recording:
    """What is kept. Digests are computed from every tick whatever is kept.

    `ticks` is one of: `all`; `every:N`, every N-th; `ends:M`, the first M and the last M; `sample:N`, at most N, evenly
    spread; `ends:M+sample:N`, the ends and a sample of what is between them; `none`. N and M are from 1 to 1,000,000.
    A sample has more than N/2 ticks if there are so many. Ends and sample take about 100 bytes of memory a tick.
    """

    ticks: Name = "all"


@model
class Scenario:
    """Everything a run depends on. It ends after `duration_ms`, or with heartbeat tick number `ticks`, if that is named
    and comes first.
    """

    name: Name = "unnamed"
    description: str = ""
    seed: Annotated[int, Ge(0), Le((1 << 63) - 1)] = 1
    duration_ms: Milliseconds = 60_000
    ticks: Annotated[int, Ge(1), Le(10**9)] | None = None
    machine: Machine = field(default_factory=Machine)
    workload: Workload = field(default_factory=Workload)
    heartbeat: Heartbeat = field(default_factory=Heartbeat)
    control: Control = field(default_factory=Control)
    learn: Learn = field(default_factory=Learn)
    faults: tuple[Fault, ...] = ()
    random_faults: RandomFaults = field(default_factory=RandomFaults)
    pool: Pool = field(default_factory=Pool)
    recording: Recording = field(default_factory=Recording)
