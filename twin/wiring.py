"""The channels of a scenario's machine: their names, their order, and where Linux shows them."""

from __future__ import annotations

from hardware.interface import Channel, Limit, Source, Wiring
from twin.scenario import Machine

APPLICATION_CHANNELS = (
    "frame_rate_millihertz",
    "frame_latency_microseconds",
    "game_state_code",
    "words_offered_per_second",
    "frames_completed",
)
"""What no kernel file tells; the application port carries it."""


def wiring(machine: Machine) -> Wiring:
    """The sensors and outputs of `machine`, in the fixed order in which they cross the seam."""
    sensors: list[Channel] = []
    outputs: list[Limit] = []
    for sensor in machine.sensors:
        sources = [Source("hwmon", "temp", sensor.hwmon_chips, sensor.hwmon_labels)] if sensor.hwmon_chips else []
        if sensor.thermal_zones:
            sources.append(Source("thermal", "temp", sensor.thermal_zones))
        if machine.gpu.enabled and sensor.node == machine.gpu.node:
            sources.append(Source("nvml", "temp", machine.gpu.nvml_cards, multiply=1_000))
        sensors.append(Channel(f"{sensor.name}_temp_millicelsius", sources=tuple(sources)))
    for fan in machine.fans:
        sensors.append(Channel(f"{fan.name}_rpm", sources=(Source("hwmon", "fan", fan.hwmon_chips, index=fan.index),)))
        places = [Source("hwmon", "pwm", fan.hwmon_chips, index=fan.index)]
        if fan.cooling_devices:
            states = fan.cooling_states
            places.append(Source("thermal", "cur_state", fan.cooling_devices, multiply=255, divide=states))
        if fan.nvml:
            places.append(Source("nvml", "fan", machine.gpu.nvml_cards, multiply=255, divide=100))
        outputs.append(Limit(f"{fan.name}_pwm", 0, 255, 255, tuple(places)))
    cpu = machine.cpu
    sensors += [
        Channel("cpu_busy_ticks", sources=(Source("stat", "busy"),)),
        Channel("cpu_total_ticks", sources=(Source("stat", "total"),)),
        Channel("cpu_clock_kilohertz", sources=(Source("cpufreq", "scaling_cur_freq"),)),
        Channel(
            "cpu_energy_microjoules",
            wrap=cpu.energy_wrap_microjoules,
            sources=(Source("powercap", "energy_uj", ("package-0",)),),
        ),
    ]
    outputs += [
        Limit(
            "cpu_max_kilohertz",
            cpu.frequencies_kilohertz[0],
            cpu.frequencies_kilohertz[-1],
            cpu.safe_kilohertz,
            (Source("cpufreq", "scaling_max_freq"),),
        ),
        Limit(
            "cpu_power_limit_microwatts",
            round(min(cpu.safe_watts, cpu.pl1_watts) * 1e6 / 2),
            round(cpu.pl1_watts * 1e6),
            round(min(cpu.safe_watts, cpu.pl1_watts) * 1e6),
            (Source("powercap", "constraint_0_power_limit_uw", ("package-0",)),),
        ),
    ]
    gpu = machine.gpu
    if gpu.enabled:
        sensors += [
            Channel(
                "gpu_busy_ppm",
                sources=(
                    Source("hwmon", "gpu_busy_percent", gpu.hwmon_chips, multiply=10_000),
                    Source("nvml", "busy", machine.gpu.nvml_cards, multiply=10_000),
                ),
            ),
            Channel(
                "gpu_clock_kilohertz",
                sources=(
                    Source("hwmon", "freq", gpu.hwmon_chips, divide=1_000),
                    Source("nvml", "clock", machine.gpu.nvml_cards, multiply=1_000),
                ),
            ),
            Channel(
                "gpu_power_microwatts",
                sources=(
                    Source("hwmon", "power_average", gpu.hwmon_chips),
                    Source("nvml", "power", machine.gpu.nvml_cards, multiply=1_000),
                ),
            ),
        ]
        outputs.append(
            Limit(
                "gpu_power_limit_microwatts",
                round(gpu.minimum_power_limit_watts * 1e6),
                round(gpu.power_limit_watts * 1e6),
                round(gpu.safe_watts * 1e6),
                (
                    Source("hwmon", "power_cap", gpu.hwmon_chips),
                    Source("nvml", "power_limit", machine.gpu.nvml_cards, multiply=1_000),
                ),
            )
        )
        if gpu.limit_clock:
            clocks = gpu.frequencies_kilohertz
            place = Source("nvml", "clock_limit", machine.gpu.nvml_cards, multiply=1_000)
            outputs.append(Limit("gpu_max_kilohertz", clocks[0], clocks[-1], gpu.safe_kilohertz, (place,)))
    sensors += [
        Channel("memory_total_kibibytes", sources=(Source("meminfo", "MemTotal"),)),
        Channel("memory_available_kibibytes", sources=(Source("meminfo", "MemAvailable"),)),
    ]
    sensors += [Channel(name, sources=(Source("application", name),)) for name in APPLICATION_CHANNELS]
    return Wiring(tuple(sensors), tuple(outputs))


def fault_targets(channels: Wiring, machine: Machine) -> dict[str, str]:
    """What a fault may name -> the channel it means.

    Every channel stands for itself, a sensor's name for its temperature and a fan's name for its PWM; a name that a
    sensor and a fan share is left out, because it could mean either.
    """
    targets = {channel.name: channel.name for channel in channels.sensors}
    targets |= {limit.name: limit.name for limit in channels.outputs}
    sensors = {sensor.name: f"{sensor.name}_temp_millicelsius" for sensor in machine.sensors}
    fans = {fan.name: f"{fan.name}_pwm" for fan in machine.fans}
    for name, channel in (sensors | fans).items():
        if not (name in sensors and name in fans):
            targets.setdefault(name, channel)
    return targets
