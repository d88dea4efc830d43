"""One IP packet, or one message of a radio without IP, on the air of a profiled radio.

A packet is what goes over the link: an IP packet on Wi-Fi, Ethernet, NB-IoT, LTE-M; what 6LoWPAN carries on 802.15.4; a
run of notifications on BLE; the application's message, in fragments where it must be, on LoRaWAN.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge.meter.radio import ble, cellular, ethernet, ieee802154, lora, wifi
from firmware_profiles.radio_schema import Ble, Cellular, Ethernet, Ieee802154, Lora, Phy, Wifi

US = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Air:
    """Of one packet, as the device sees it."""

    transmit_s: float
    receive_s: float
    """Acknowledgements and answers to what it sends; data, when it receives."""
    listen_s: float
    """Receiver on, nothing for it: waiting for a free channel, empty windows."""
    frames: int
    """Data frames: fragments, and no acknowledgements."""
    frame_bytes: int
    """Of the data frames on the air, link headers and trailers in them."""

    @property
    def total_s(self) -> float:
        return self.transmit_s + self.receive_s + self.listen_s


def send(phy: Phy, packet_bytes: int, *, data_rate: int | None = None) -> Air:
    """A packet from the device. `data_rate`: of a LoRa radio, the default one where None."""
    return _air(phy, packet_bytes, up=True, data_rate=data_rate)


def receive(phy: Phy, packet_bytes: int, *, data_rate: int | None = None) -> Air:
    """A packet to the device. LoRa: in the first window, after an uplink at `data_rate`."""
    return _air(phy, packet_bytes, up=False, data_rate=data_rate)


def _air(phy: Phy, packet_bytes: int, *, up: bool, data_rate: int | None) -> Air:
    if data_rate is not None and not isinstance(phy, Lora):
        raise ValueError("only LoRa has a data rate: leave data_rate out")
    match phy:
        case Wifi():
            return _wifi(phy, packet_bytes, up=up)
        case Lora():
            return (_lora_up if up else _lora_down)(phy, packet_bytes, data_rate)
        case Ble():
            return _ble(phy, packet_bytes, up=up)
        case Ieee802154():
            return _ieee802154(phy, packet_bytes, up=up)
        case Cellular():
            return _cellular(phy, packet_bytes, up=up)
        case Ethernet():
            on_wire = ethernet.wire_s(packet_bytes, phy.rate_mbit_per_s.value)
            return _of(up=up, data_s=on_wire, frames=1, frame_bytes=ethernet.frame_bytes(packet_bytes))


def _of(*, up: bool, data_s: float, answer_s: float = 0.0, listen_s: float = 0.0, frames: int, frame_bytes: int) -> Air:
    """Data one way, answers the other."""
    sent, heard = (data_s, answer_s) if up else (answer_s, data_s)
    return Air(transmit_s=sent, receive_s=heard, listen_s=listen_s, frames=frames, frame_bytes=frame_bytes)


def _wifi(phy: Wifi, packet_bytes: int, *, up: bool) -> Air:
    one = wifi.exchange(
        phy.standard.value,
        packet_bytes,
        rate_mbit_per_s=phy.rate_mbit_per_s.value,
        ack_rate_mbit_per_s=phy.ack_rate_mbit_per_s.value,
    )
    return _of(
        up=up,
        data_s=US * one.data_us,
        answer_s=US * one.ack_us,
        listen_s=US * one.wait_us,
        frames=1,
        frame_bytes=one.frame_bytes,
    )


def lora_rate(phy: Lora, data_rate: int | None) -> tuple[int, float, int]:
    """-> spreading factor, bandwidth in Hz, bytes of payload. Raises ValueError on a rate that the region has not."""
    rate = _lora_index(phy, data_rate)
    return phy.spreading_factor.value[rate], 1000.0 * phy.bandwidth_khz.value[rate], phy.max_payload_bytes.value[rate]


def lora_downlink(phy: Lora, data_rate: int | None) -> tuple[int, float, int]:
    """The same of the answer in the first window after an uplink at `data_rate`."""
    rate = _lora_index(phy, data_rate)
    bandwidth_hz = 1000.0 * phy.downlink_bandwidth_khz.value[rate]
    return phy.downlink_spreading_factor.value[rate], bandwidth_hz, phy.downlink_max_payload_bytes.value[rate]


def _lora_index(phy: Lora, data_rate: int | None) -> int:
    rate, rates = phy.default_data_rate.value if data_rate is None else data_rate, len(phy.spreading_factor.value)
    if not 0 <= rate < rates:
        raise ValueError(f"{phy.region.value} has DR0 to DR{rates - 1}, not DR{rate}")
    return rate


def _lora_up(phy: Lora, message_bytes: int, data_rate: int | None) -> Air:
    factor, bandwidth, room = lora_rate(phy, data_rate)
    sizes = lora.fragments(message_bytes, room)
    sending = (lora.time_on_air_s(size, spreading_factor=factor, bandwidth_hz=bandwidth) for size in sizes)
    second = lora.symbol_s(phy.second_window_spreading_factor.value, 1000 * phy.second_window_bandwidth_khz.value)
    first_factor, first_bandwidth, _ = lora_downlink(phy, data_rate)
    window = lora.WINDOW_SYMBOLS * (lora.symbol_s(first_factor, first_bandwidth) + second)
    return _of(up=True, data_s=sum(sending), listen_s=window * len(sizes), frames=len(sizes), frame_bytes=sum(sizes))


def _lora_down(phy: Lora, message_bytes: int, data_rate: int | None) -> Air:
    factor, bandwidth, room = lora_downlink(phy, data_rate)
    sizes = lora.fragments(message_bytes, room)
    hearing = (lora.time_on_air_s(size, spreading_factor=factor, bandwidth_hz=bandwidth, crc=False) for size in sizes)
    return _of(up=False, data_s=sum(hearing), frames=len(sizes), frame_bytes=sum(sizes))


def _ble(phy: Ble, packet_bytes: int, *, up: bool) -> Air:
    sizes = ble.notifications(packet_bytes, phy.max_pdu_bytes.value)
    data = sum(ble.packet_us(phy.phy.value, size) for size in sizes)
    answers = ble.packet_us(phy.phy.value, 0) * len(sizes)
    return _of(
        up=up,
        data_s=US * data,
        answer_s=US * answers,
        listen_s=US * 2 * ble.INTER_FRAME_US * len(sizes),
        frames=len(sizes),
        frame_bytes=sum(map(ble.packet_bytes, sizes)),
    )


def _ieee802154(phy: Ieee802154, packet_bytes: int, *, up: bool) -> Air:
    sizes = ieee802154.frames(packet_bytes, phy.mac_overhead_bytes.value + phy.network_overhead_bytes.value)
    return _of(
        up=up,
        data_s=US * sum(map(ieee802154.frame_us, sizes)),
        answer_s=US * ieee802154.frame_us(ieee802154.ACK_BYTES) * len(sizes),
        listen_s=US * ieee802154.wait_us() * len(sizes),
        frames=len(sizes),
        frame_bytes=sum(sizes),
    )


def _cellular(phy: Cellular, packet_bytes: int, *, up: bool) -> Air:
    overhead = phy.packet_overhead_bytes.value
    rate = (phy.uplink_kbit_per_s if up else phy.downlink_kbit_per_s).value
    transfer = cellular.transfer_s(packet_bytes, overhead_bytes=overhead, rate_kbit_per_s=rate)
    return _of(up=up, data_s=transfer, frames=1, frame_bytes=packet_bytes + overhead)
