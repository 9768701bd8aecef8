"""The best accelerators for one fixed model, by the exact costs of the whole grid.

Such as

    codesign search hardware --model tinyclip-39m-16 --tops 20 --latency_s 0.02
"""

from codesign.search.hardware import HardwareConfig

config = HardwareConfig()
