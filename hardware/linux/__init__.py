"""The Linux machine behind the seam: hwmon, thermal zones, cpufreq, powercap, /proc, an application port and NVML."""
