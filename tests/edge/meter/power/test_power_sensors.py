"""Each sensor against a recorded transcript, or a tree or bus laid out as its documentation says; no real board here.

- hwmon: Documentation/hwmon/ina2xx.rst and ina3221.rst of the kernel (mV, mA, uW); labels as on a Jetson Nano.
- I2C: the real Adafruit drivers from PyPI on a bus that answers register reads as the datasheets say: INA219 (SBOS448),
  INA228 (SBOS886), INA260 (SBOS656).
- pmic: `vcgencmd pmic_read_adc` of a Raspberry Pi 5 under load, from the README of github.com/jfikar/RPi5-power.
- RAPL: Documentation/power/powercap/powercap.rst.
"""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from edge.meter.power.choose import found_sensors, open_sensor
from edge.meter.power.hwmon import HwmonSensor, channels, choose_channel
from edge.meter.power.ina import InaSensor, LinuxBus
from edge.meter.power.pmic import PmicSensor, rail_powers_w
from edge.meter.power.protocol import Joules, PowerSensor, Reading, SensorFailed, SensorMissing, Watts
from edge.meter.power.rapl import RaplSensor
from edge.meter.power.trace import TraceSensor


def reads(found: Reading, wanted: Reading) -> None:
    assert type(found) is type(wanted)
    assert found.value == pytest.approx(wanted.value)


def write(folder: Path, **files: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name).write_text(f"{value}\n")
    return folder


# ---------------------------------------------------------------- hwmon


def ina226(root: Path, number: int = 0) -> Path:
    return write(
        root / f"hwmon{number}",
        name="ina226",
        in0_input=5,
        in1_input=5016,
        curr1_input=498,
        power1_input=2_500_000,
        shunt_resistor=10000,
        update_interval=2,
    )


def ina3221(root: Path, number: int) -> Path:
    """A Jetson Nano's: the whole board, the GPU, the CPU; shunt voltages in4 to in6, sums in7 and curr4."""
    folder = write(root / f"hwmon{number}", name="ina3221", in7_label="sum of shunt voltages", in7_input=60)
    write(folder, curr4_input=516)
    rails = (("POM_5V_IN", 5088, 412), ("POM_5V_GPU", 5080, 8), ("POM_5V_CPU", 5080, 96))
    for channel, (label, millivolts, milliamperes) in enumerate(rails, 1):
        write(
            folder,
            **{
                f"in{channel}_label": label,
                f"in{channel}_enable": 1,
                f"in{channel}_input": millivolts,
                f"curr{channel}_input": milliamperes,
                f"in{channel + 3}_input": 20,
            },
        )
    return folder


def test_hwmon_takes_the_chips_own_power(tmp_path: Path) -> None:
    write(tmp_path / "hwmon0", name="rpi_volt", in0_lcrit_alarm=0)
    ina226(tmp_path, 1)
    sensor = HwmonSensor(choose_channel("auto", tmp_path))
    reads(sensor.read(), Watts(2.5))
    assert sensor.name == "ina226 (hwmon:hwmon1/1)"


def test_hwmon_multiplies_voltage_and_current_of_an_ina3221(tmp_path: Path) -> None:
    ina3221(tmp_path, 0)
    sensor = HwmonSensor(choose_channel("hwmon0/1", tmp_path))
    reads(sensor.read(), Watts(5.088 * 0.412))
    assert "POM_5V_IN" in sensor.name


def test_hwmon_has_three_channels_and_no_sum(tmp_path: Path) -> None:
    folder = ina3221(tmp_path, 0)
    assert [channel.number for channel in channels(tmp_path)] == [1, 2, 3]
    write(folder, in2_enable=0)
    assert [channel.number for channel in channels(tmp_path)] == [1, 3]


def test_hwmon_asks_which_where_several_fit(tmp_path: Path) -> None:
    ina3221(tmp_path, 0)
    with pytest.raises(SensorMissing, match=r"3 power channels.*hwmon:hwmon0/1 is ina3221 POM_5V_IN"):
        choose_channel("auto", tmp_path)


def test_hwmon_says_how_to_bind_a_chip_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(SensorMissing, match="new_device"):
        choose_channel("auto", tmp_path)
    ina226(tmp_path)
    with pytest.raises(SensorMissing, match="hwmon:hwmon0/1 is ina226"):
        choose_channel("hwmon7", tmp_path)


def test_hwmon_fails_aloud_when_the_chip_is_gone(tmp_path: Path) -> None:
    folder = ina226(tmp_path)
    sensor = HwmonSensor(choose_channel("auto", tmp_path))
    (folder / "power1_input").write_text("")
    with pytest.raises(SensorFailed, match="power1_input"):
        sensor.read()


# ---------------------------------------------------------------- INA chips on a bus


class Bus:
    """An I2C bus of registers, as `busio.I2C` offers one: big-endian, a register's width is what is read of it."""

    def __init__(self, address: int, registers: dict[int, bytes]) -> None:
        self.address = address
        self.registers = registers
        self.written: list[tuple[int, bytes]] = []
        self.broken = False
        self.open = True

    def try_lock(self) -> bool:
        return True

    def unlock(self) -> None:
        """One thread."""

    def deinit(self) -> None:
        self.open = False

    def _answer(self, address: int) -> None:
        if address != self.address or self.broken:
            raise OSError(121, "Remote I/O error")

    def writeto(self, address: int, buffer: bytes, *, start: int = 0, end: int | None = None) -> None:
        self._answer(address)
        written = bytes(buffer)[start:end]
        if len(written) > 1:
            self.written.append((written[0], written[1:]))
            self.registers[written[0]] = written[1:]

    def readfrom_into(self, address: int, buffer: bytearray, *, start: int = 0, end: int | None = None) -> None:
        self._answer(address)
        stop = len(buffer) if end is None else end
        buffer[start:stop] = bytes(stop - start)

    def writeto_then_readfrom(
        self,
        address: int,
        out_buffer: bytes,
        in_buffer: bytearray,
        *,
        out_start: int = 0,
        out_end: int | None = None,
        in_start: int = 0,
        in_end: int | None = None,
    ) -> None:
        self._answer(address)
        register = bytes(out_buffer)[out_start:out_end][0]
        stop = len(in_buffer) if in_end is None else in_end
        width = stop - in_start
        in_buffer[in_start:stop] = self.registers.get(register, b"").rjust(width, b"\0")


TI = b"\x54\x49"
"""Manufacturer id of INA228 (register 3Eh) and INA260 (FEh)."""


def two(value: int) -> bytes:
    return value.to_bytes(2, "big")


def ina219_bus() -> Bus:
    """500 mA at 5.0 V. With 0.1 ohm and calibration 4096: current 0.1 mA a bit, power 2 mW a bit (SBOS448, 8.5.1)."""
    bus_voltage = (5000 // 4) << 3 | 0b10  # 4 mV a bit from bit 3 on; conversion ready
    return Bus(0x40, {0: b"\x39\x9f", 1: two(5000), 2: two(bus_voltage), 3: two(1250), 4: two(5000), 5: b"\0\0"})


def ina228_bus() -> Bus:
    """Device id 228h in the upper twelve bits of 3Fh; ENERGY (09h) is 40 bits of 16 x 3.2 x current_lsb joules."""
    return Bus(0x40, {0x3E: TI, 0x3F: two(0x2281), 0x09: bytes(5), 0x00: b"\0\0", 0x01: b"\0\0", 0x0B: b"\0\0"})


def ina260_bus() -> Bus:
    """Power (03h) 10 mW a bit; die id 227h in the upper twelve bits of FFh (SBOS656, table 7-1)."""
    return Bus(0x41, {0xFE: TI, 0xFF: two(0x2270), 0x03: two(249), 0x00: b"\x61\x27"})


def test_ina219_through_its_driver() -> None:
    pytest.importorskip("adafruit_ina219")
    bus = ina219_bus()
    sensor = InaSensor("ina219", 0x40, bus, bus_name="i2c-1")
    reads(sensor.read(), Watts(2.5))
    assert (5, two(4096)) in bus.written  # the calibration that the bits above mean
    assert sensor.name == "ina219 at 0x40 on i2c-1"
    sensor.close()
    assert not bus.open


def test_ina228_counts_joules_itself() -> None:
    pytest.importorskip("adafruit_ina228")
    bus = ina228_bus()
    sensor = InaSensor("ina228", 0x40, bus)
    register, value = bus.written[-1]
    assert (register, value[0] & 0x40) == (0x00, 0x40)  # RSTACC: the count begins at nothing
    lsb_a = 10.0 / 2**19  # 10 A over 19 bits
    bus.registers[0x09] = (54_321).to_bytes(5, "big")
    reads(sensor.read(), Joules(54_321 * 16 * 3.2 * lsb_a))


def test_ina260_through_its_driver() -> None:
    pytest.importorskip("adafruit_ina260")
    reads(InaSensor("ina260", 0x41, ina260_bus()).read(), Watts(2.49))


@pytest.mark.parametrize(
    ("chip", "address", "bus"),
    [("ina219", 0x44, ina219_bus()), ("ina228", 0x41, ina260_bus()), ("ina260", 0x40, ina228_bus())],
    ids=["nothing there", "another chip", "another chip too"],
)
def test_a_chip_that_is_not_there_is_missing(chip: str, address: int, bus: Bus) -> None:
    pytest.importorskip(f"adafruit_{chip}")
    with pytest.raises(SensorMissing, match=r"does not answer.*check SDA"):
        InaSensor(chip, address, bus)


def test_a_chip_that_falls_silent_fails() -> None:
    pytest.importorskip("adafruit_ina219")
    bus = ina219_bus()
    sensor = InaSensor("ina219", 0x40, bus)
    bus.broken = True
    with pytest.raises(SensorFailed, match="Remote I/O error"):
        sensor.read()


def test_without_a_bus_the_user_is_told_to_switch_it_on() -> None:
    pytest.importorskip("adafruit_blinka")
    with pytest.raises(SensorMissing, match=r"no I2C bus 97.*raspi-config"):
        open_sensor("ina219:0x40@97")


def test_a_driver_reads_through_the_bus_that_linux_gives() -> None:
    pytest.importorskip("adafruit_ina219")
    below = ina219_bus()
    bus = LinuxBus(below)
    assert InaSensor("ina219", 0x40, bus).read() == InaSensor("ina219", 0x40, below).read()
    assert bus.try_lock()
    assert not bus.try_lock(), "one at a time"
    bus.unlock()
    bus.deinit()


# ---------------------------------------------------------------- Raspberry Pi 5

PMIC = """\
 3V7_WL_SW_A current(0)=0.00000000A
   3V3_SYS_A current(1)=0.06245952A
   1V8_SYS_A current(2)=0.16102850A
  DDR_VDD2_A current(3)=0.00780744A
  DDR_VDDQ_A current(4)=0.00000000A
   1V1_SYS_A current(5)=0.17566740A
    0V8_SW_A current(6)=0.32791250A
  VDD_CORE_A current(7)=10.87674000A
   3V3_DAC_A current(17)=0.00036630A
   3V3_ADC_A current(18)=0.00042735A
   0V8_AON_A current(16)=0.00579975A
      HDMI_A current(22)=0.01367520A
 3V7_WL_SW_V volt(8)=3.79999600V
   3V3_SYS_V volt(9)=3.30632200V
   1V8_SYS_V volt(10)=1.79828900V
  DDR_VDD2_V volt(11)=1.10292900V
  DDR_VDDQ_V volt(12)=0.60476130V
   1V1_SYS_V volt(13)=1.10439400V
    0V8_SW_V volt(14)=0.80256330V
  VDD_CORE_V volt(15)=0.89745940V
   3V3_DAC_V volt(20)=3.30494200V
   3V3_ADC_V volt(21)=3.30219400V
   0V8_AON_V volt(19)=0.79736190V
      HDMI_V volt(23)=5.07056000V
     EXT5V_V volt(24)=5.06788000V
      BATT_V volt(25)=3.01110800V
"""


def vcgencmd(folder: Path, script: str) -> list[str]:
    """A program in vcgencmd's place."""
    file = folder / "vcgencmd"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return [str(file), "pmic_read_adc"]


def test_pmic_pairs_rails_by_name() -> None:
    rails = rail_powers_w(PMIC)
    assert len(rails) == 12
    assert "EXT5V" not in rails
    assert rails["VDD_CORE"] == pytest.approx(10.87674 * 0.8974594)


def test_pmic_sums_its_rails(tmp_path: Path) -> None:
    (tmp_path / "said").write_text(PMIC)
    sensor = PmicSensor(vcgencmd(tmp_path, f"cat {tmp_path}/said"))
    assert sensor.read().value == pytest.approx(10.8, abs=0.05)  # 9.76 of it the cores
    (tmp_path / "said").write_text("VCHI initialization failed\n")
    with pytest.raises(SensorFailed, match="VCHI"):
        sensor.read()


def test_pmic_is_missing_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(SensorMissing, match="Raspberry Pi 5"):
        PmicSensor([str(tmp_path / "none")])
    with pytest.raises(SensorMissing, match=r"error=1.*Raspberry Pi 5"):
        PmicSensor(vcgencmd(tmp_path, "echo 'error=1 error_msg=\"Command not registered\"'"))


# ---------------------------------------------------------------- RAPL


def rapl_zone(root: Path, zone: str, name: str, energy_uj: int, turn_uj: int = 262_143_328_850) -> Path:
    return write(root / zone, name=name, energy_uj=energy_uj, max_energy_range_uj=turn_uj, enabled=1)


def test_rapl_sums_packages_and_counts_no_part_twice(tmp_path: Path) -> None:
    write(tmp_path / "intel-rapl", enabled=1)
    zones = [rapl_zone(tmp_path, f"intel-rapl:{n}", f"package-{n}", 1000) for n in (0, 1)]
    rapl_zone(tmp_path, "intel-rapl:0:0", "core", 500)
    rapl_zone(tmp_path, "intel-rapl:2", "psys", 5000)
    sensor = RaplSensor(tmp_path)
    write(zones[0], energy_uj=3_001_000)
    write(zones[1], energy_uj=2_001_000)
    reads(sensor.read(), Joules(5.0))
    assert sensor.name == "rapl (package-0, package-1)"


def test_rapl_goes_on_when_the_counter_begins_again(tmp_path: Path) -> None:
    zone = rapl_zone(tmp_path, "intel-rapl:0", "package-0", 990_000, turn_uj=1_000_000)
    sensor = RaplSensor(tmp_path)
    seen = []
    for counter in (995_000, 5_000, 5_000, 2_000):  # the last: once more round
        write(zone, energy_uj=counter)
        seen.append(sensor.read().value)
    assert seen == pytest.approx([0.005, 0.015, 0.015, 1.012])


def test_rapl_is_missing_on_a_board(tmp_path: Path) -> None:
    with pytest.raises(SensorMissing, match="only x86"):
        RaplSensor(tmp_path)


# ---------------------------------------------------------------- trace


def test_a_trace_is_played_in_time_and_ends(tmp_path: Path) -> None:
    file = tmp_path / "bench.csv"
    file.write_text("seconds,watts\n100,1.0\n101,3.0\n103,3.0\n")
    now = [0.0]
    sensor = TraceSensor(file, lambda: now[0])
    seen = []
    for at_s in (0.0, 0.25, 1.0, 2.5, 3.0):
        now[0] = at_s
        seen.append(sensor.read().value)
    assert seen == [1.0, 1.5, 3.0, 3.0, 3.0]
    now[0] = 3.1
    with pytest.raises(SensorFailed, match="has ended, after 3 s"):
        sensor.read()


@pytest.mark.parametrize(
    "text", ["", "seconds,watts\n", "t,w\n0,1\n1,1\n", "seconds,watts\n0,1\n0,1\n", "seconds,watts\n0,x\n1,1\n"]
)
def test_a_file_that_is_no_trace_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(SensorMissing, match="a trace is CSV with the header"):
        TraceSensor(tmp_path / "t.csv")


# ---------------------------------------------------------------- by name


@pytest.mark.parametrize("spec", ["", "hwmon", "hwmon:", "ina226:0x40", "battery", "plug", "trace:", "rapl:0"])
def test_an_unknown_sensor_lists_the_forms(spec: str) -> None:
    with pytest.raises(SensorMissing, match=r"wanted|one of hwmon:auto"):
        open_sensor(spec)


@pytest.mark.parametrize("spec", ["plug:tasmota/", "plug:kasa/desk", "plug:tasmota/a/#", "plug:shelly/id"])
def test_a_plug_needs_maker_name_and_broker(spec: str) -> None:
    with pytest.raises(SensorMissing, match="plug:"):
        open_sensor(spec)


@pytest.mark.parametrize("spec", ["ina219:", "ina219:forty", "ina260:0x40@x"])
def test_a_chip_needs_an_address(spec: str) -> None:
    with pytest.raises(SensorMissing, match=r"ina219:0x40@1|ina260:0x40@1"):
        open_sensor(spec)


def test_what_there_is_can_be_listed_without_touching_it(tmp_path: Path) -> None:
    ina3221(tmp_path / "hwmon", 2)
    rapl_zone(tmp_path / "powercap", "intel-rapl:0", "package-0", 1)
    write(tmp_path / "dev", **{"i2c-1": ""})
    found = found_sensors(hwmon_root=tmp_path / "hwmon", rapl_root=tmp_path / "powercap", devices=tmp_path / "dev")
    specs = [spec for spec, _ in found if spec != "pmic"]
    assert specs == ["hwmon:hwmon2/1", "hwmon:hwmon2/2", "hwmon:hwmon2/3", "rapl", "ina219:0x40@1"]


def test_every_sensor_is_one_to_the_type_checker(tmp_path: Path) -> None:
    ina226(tmp_path / "hwmon")
    rapl_zone(tmp_path / "powercap", "intel-rapl:0", "package-0", 1)
    sensors: list[PowerSensor] = [
        HwmonSensor(choose_channel("auto", tmp_path / "hwmon")),
        RaplSensor(tmp_path / "powercap"),
    ]
    for sensor in sensors:
        assert sensor.covers
        assert sensor.name
        sensor.close()
